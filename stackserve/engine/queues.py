"""The requests that wait, in one queue for each adapter: what vLLM's scheduler takes the next from.

vLLM keeps one queue and passes over each request that may not run, in every step. Here such requests
are not seen: `peek_request` knows only the queues of adapters that are on the device.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request, RequestStatus

from stackserve.engine.fairness import FairShares
from stackserve.engine.residency import BASE, Residency


def adapter_of(request: Request) -> int:
    """The id of a request's adapter; `BASE` without one."""
    return request.lora_request.lora_int_id if request.lora_request else BASE


class _Queue(Protocol):
    """One adapter's waiting requests."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Request]: ...
    def head(self) -> Request: ...
    def add(self, request: Request) -> None: ...
    def put_back(self, request: Request) -> None: ...
    def remove(self, request: Request) -> bool: ...


class ArrivalQueue:
    """First come, first served. Every operation is O(1)."""

    def __init__(self) -> None:
        self._requests: OrderedDict[str, Request] = OrderedDict()

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests.values())

    def head(self) -> Request:
        return next(iter(self._requests.values()))

    def add(self, request: Request) -> None:
        self._requests[request.request_id] = request

    def put_back(self, request: Request) -> None:
        """In front of all others."""
        self._requests[request.request_id] = request
        self._requests.move_to_end(request.request_id, last=False)

    def remove(self, request: Request) -> bool:
        """Whether it was there."""
        return self._requests.pop(request.request_id, None) is not None


class PriorityQueue:
    """By vLLM's order of requests: priority, then arrival. O(log n); what is removed stays until it
    comes to the front, or is half of all.
    """

    def __init__(self) -> None:
        self._heap: list[Request] = []
        self._live: dict[str, Request] = {}

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Request]:
        return iter(sorted(self._live.values()))

    def head(self) -> Request:
        while self._live.get(self._heap[0].request_id) is not self._heap[0]:
            heapq.heappop(self._heap)
        return self._heap[0]

    def add(self, request: Request) -> None:
        self._live[request.request_id] = request
        heapq.heappush(self._heap, request)

    put_back = add

    def remove(self, request: Request) -> bool:
        """Whether it was there."""
        if self._live.pop(request.request_id, None) is None:
            return False
        if len(self._heap) > 2 * len(self._live):
            self._heap = list(self._live.values())
            heapq.heapify(self._heap)
        return True


class Batch:
    """The adapters of the step that is being made up, as many as may share it.

    Shared by the queues of one scheduler, which both take part in the same step.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._inside: dict[int, int] = {}
        """By adapter, its requests that entered in this step, one more for those that run already."""
        self._last: Request | None = None

    def begin(self, running: Iterable[int]) -> None:
        """A new step, in which these adapters run already; the base is none of them."""
        self._inside = dict.fromkeys(running, 1)
        self._last = None

    def enter(self, request: Request) -> None:
        """A request is taken to run in this step."""
        adapter_id = adapter_of(request)
        if adapter_id != BASE:
            self._inside[adapter_id] = self._inside.get(adapter_id, 0) + 1
            self._last = request

    def settle(self) -> bool:
        """Give the last one's place back if vLLM has passed over it after all; whether it has."""
        last, self._last = self._last, None
        if last is None or last.status == RequestStatus.RUNNING:
            return False
        adapter_id = adapter_of(last)
        self._inside[adapter_id] -= 1
        if not self._inside[adapter_id]:
            del self._inside[adapter_id]
        return True

    def __contains__(self, adapter_id: int) -> bool:
        return adapter_id == BASE or adapter_id in self._inside

    @property
    def is_full(self) -> bool:
        return self._most is not None and len(self._inside) >= self._most

    @property
    def is_limited(self) -> bool:
        return self._most is not None


class AdapterQueues(RequestQueue):  # type: ignore[misc]  # vllm is untyped here
    """vLLM's queue of waiting requests, made of one for each adapter.

    True when a request may be taken now, and as long as all that wait. Of the adapters on the device
    the one whose tenant has been given least is next. Costs O(adapters on the device) for a request
    that is taken, and nothing for one that is not.
    """

    def __init__(
        self,
        by_priority: bool,
        residency: Residency,
        shares: FairShares,
        batch: Batch,
        clock: Callable[[], float],
        tenant_of: Callable[[Request], str],
    ) -> None:
        self._by_priority = by_priority
        self._residency = residency
        self._shares = shares
        self._batch = batch
        self._clock = clock
        self._tenant_of = tenant_of
        self._queues: dict[int, _Queue] = {}
        self._size = 0
        self._next: Request | None = None

    def add_request(self, request: Request) -> None:
        self._add(request, lambda queue: queue.add(request))

    def prepend_request(self, request: Request) -> None:
        """What was preempted comes first again."""
        self._add(request, lambda queue: queue.put_back(request))

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        """Put back what was popped and could not run; the last of `requests` comes first."""
        for request in requests:
            self.prepend_request(request)
            self._shares.returned(self._tenant_of(request), _cost(request))

    def peek_request(self) -> Request:
        """The next that may run. IndexError when there is none."""
        if self._next is None:
            self._next = self._choose()
        if self._next is None:
            raise IndexError("no waiting request may run now")
        return self._next

    def pop_request(self) -> Request:
        request = self.peek_request()
        self._take(request)
        self._shares.admitted(self._tenant_of(request), _cost(request))
        self._batch.enter(request)
        return request

    def remove_request(self, request: Request) -> None:
        """ValueError when it does not wait here."""
        if not self._take(request):
            raise ValueError(f"request {request.request_id} does not wait")

    def remove_requests(self, requests: Iterable[Request]) -> None:
        """Those that wait here; O(1) each, but for priorities."""
        for request in requests:
            self._take(request)

    def of_adapter(self, adapter_id: int) -> list[Request]:
        """All that wait for one adapter."""
        return list(self._queues.get(adapter_id, ()))

    def of_base(self) -> list[Request]:
        """All that wait for no adapter."""
        return self.of_adapter(BASE)

    @property
    def without_slot(self) -> int:
        """How many wait for an adapter that is not on the device."""
        here = (BASE, *self._residency.residents())
        return self._size - sum(len(self._queues.get(each, ())) for each in here)

    def __bool__(self) -> bool:
        # vLLM's loop asks this before each request that it takes: the last one's fate is known by now.
        if self._batch.settle():
            self._next = None
        if self._next is None and self._size:
            self._next = self._choose()
        return self._next is not None

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Request]:
        """Adapter by adapter; within one in its order."""
        for queue in self._queues.values():
            yield from queue

    def step_begins(self) -> None:
        """Adapters have moved since the last step."""
        self._next = None

    def _add(self, request: Request, put: Callable[[_Queue], None]) -> None:
        adapter_id = adapter_of(request)
        queue = self._queues.get(adapter_id)
        if queue is None:
            queue = self._queues[adapter_id] = (
                PriorityQueue() if self._by_priority else ArrivalQueue()
            )
        put(queue)
        self._size += 1
        self._next = None
        if adapter_id != BASE:
            priority = request.priority if self._by_priority else 0
            self._residency.enqueued(adapter_id, priority, self._clock())

    def _take(self, request: Request) -> bool:
        adapter_id = adapter_of(request)
        queue = self._queues.get(adapter_id)
        if queue is None or not queue.remove(request):
            return False
        if not queue:
            del self._queues[adapter_id]
        self._size -= 1
        self._next = None
        if adapter_id != BASE:
            self._residency.dequeued(adapter_id)
        return True

    def _choose(self) -> Request | None:
        heads = [
            self._queues[each].head()
            for each in (BASE, *self._residency.residents())
            if each in self._queues and self._residency.is_resident(each)
        ]
        if self._batch.is_limited:
            heads = self._fitting(heads)
        return min(heads, key=self._turn, default=None)

    def _fitting(self, heads: list[Request]) -> list[Request]:
        """Those that the batch has room for: its own adapters, and the one that waits longest."""
        inside = [each for each in heads if adapter_of(each) in self._batch]
        outside = [each for each in heads if adapter_of(each) not in self._batch]
        if self._batch.is_full or not outside:
            return inside
        return [*inside, min(outside, key=self._waits_since)]

    def _waits_since(self, request: Request) -> float:
        adapter = self._residency.get(adapter_of(request))
        if adapter is None or adapter.waits_since is None:
            return self._clock()
        return adapter.waits_since

    def _turn(self, request: Request) -> tuple[float, float, float]:
        priority = request.priority if self._by_priority else 0
        return priority, self._shares.served(self._tenant_of(request)), request.arrival_time


def _cost(request: Request) -> int:
    """Tokens to charge for that are still to be read; a preempted request has paid."""
    return 0 if request.num_preemptions else request.num_tokens - request.num_computed_tokens
