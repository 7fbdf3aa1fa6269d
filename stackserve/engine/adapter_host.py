"""What the scheduler asks of the processes that hold adapters' weights, and what they report."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Staged:
    """An adapter's weights are in host memory, ready to be placed."""

    id: int
    num_bytes: int
    seconds: float


@dataclass(frozen=True)
class StageFailed:
    """An adapter could not be read; nothing of it is in memory."""

    id: int
    reason: str


Report = Staged | StageFailed


class AdapterHost(Protocol):
    """Does as it is told: which adapter is where is decided by `Residency` alone."""

    def stage(self, adapter_id: int, source: Any) -> None:
        """Begin to read an adapter into host memory. Its report comes with a later `poll`."""

    def poll(self) -> Sequence[Report]:
        """What has been staged, or has failed, since the last call."""

    def place(self, adapter_id: int, slot: int) -> None:
        """Put a staged adapter into a slot, in place of what is there, from the next step on."""

    def drop(self, adapter_id: int) -> None:
        """Free the host memory of an adapter that is in no slot, or whose slot another one takes;
        nothing when there is none.
        """

    def clear(self, slot: int) -> None:
        """Empty a slot. Its adapter stays in host memory."""


Call = Callable[..., Any]
"""vLLM's `collective_rpc(function, args=…, non_block=True)`: calls function(worker, *args) in each
worker process; a future of the answers, one for each rank.
"""


class WorkerHost:
    """The worker processes of an engine. They do what they are told in order, also among the steps.

    Nothing here waits for a worker: an answer is read when the next one is due, and by then the step
    before it has been answered too. An adapter is staged when every rank has its part of it.
    """

    def __init__(self, call: Call, slots_of: Callable[[Any], AdapterHost]) -> None:
        self._call = call
        self._slots_of = slots_of
        self._reports: dict[int, dict[int, Report]] = {}
        """By adapter that is under way, by rank."""
        self._ranks = 0
        self._told: deque[Any] = deque()
        self._asked: Any = None

    def stage(self, adapter_id: int, source: Any) -> None:
        self._reports[adapter_id] = {}
        self._tell("stage", adapter_id, source)

    def poll(self) -> Sequence[Report]:
        while self._told and self._told[0].done():
            self._told.popleft().result()
        if self._asked is not None:
            answers, self._asked = self._asked.result(), None
            self._ranks = len(answers)
            for rank, reports in enumerate(answers):
                for report in reports:
                    self._reports[report.id][rank] = report
        complete = [each for each, of in self._reports.items() if of and len(of) == self._ranks]
        summaries = [self._summary(each, self._reports.pop(each)) for each in complete]
        if self._reports:
            self._asked = self._send("poll")
        return summaries

    def place(self, adapter_id: int, slot: int) -> None:
        self._tell("place", adapter_id, slot)

    def drop(self, adapter_id: int) -> None:
        self._tell("drop", adapter_id)

    def clear(self, slot: int) -> None:
        self._tell("clear", slot)

    def _tell(self, name: str, *args: Any) -> None:
        self._told.append(self._send(name, *args))

    def _send(self, name: str, *args: Any) -> Any:
        return self._call(_Method(self._slots_of, name), args=args, non_block=True)

    def _summary(self, adapter_id: int, of_ranks: Mapping[int, Report]) -> Report:
        staged = [each for each in of_ranks.values() if isinstance(each, Staged)]
        failed = next((each for each in of_ranks.values() if isinstance(each, StageFailed)), None)
        if failed is None:
            total = sum(each.num_bytes for each in staged)
            return Staged(adapter_id, total, max(each.seconds for each in staged))
        if staged:
            self.drop(adapter_id)
        return failed


@dataclass(frozen=True)
class _Method:
    """A method of each worker's `AdapterHost`, as something to send there."""

    slots_of: Callable[[Any], AdapterHost]
    name: str

    def __call__(self, worker: Any, *args: Any) -> Any:
        return getattr(self.slots_of(worker), self.name)(*args)


class MemoryHost:
    """An `AdapterHost` without weights, for a scheduler without workers: stages at the next `poll`.

    `fail` names adapters that cannot be read, and why. `held` adapters are staged when let go.
    """

    def __init__(self, num_bytes: int = 1 << 20, seconds: float = 0.001) -> None:
        self.slots: dict[int, int] = {}
        self.staged: set[int] = set()
        self.fail: dict[int, str] = {}
        self.held: set[int] = set()
        self.stages: list[int] = []
        self._num_bytes, self._seconds = num_bytes, seconds
        self._asked: deque[int] = deque()

    def stage(self, adapter_id: int, source: Any) -> None:
        self.stages.append(adapter_id)
        self._asked.append(adapter_id)

    def poll(self) -> Sequence[Report]:
        reports: list[Report] = []
        waiting: deque[int] = deque()
        for adapter_id in self._asked:
            if adapter_id in self.held:
                waiting.append(adapter_id)
            elif adapter_id in self.fail:
                reports.append(StageFailed(adapter_id, self.fail[adapter_id]))
            else:
                self.staged.add(adapter_id)
                reports.append(Staged(adapter_id, self._num_bytes, self._seconds))
        self._asked = waiting
        return reports

    def place(self, adapter_id: int, slot: int) -> None:
        if adapter_id not in self.staged:
            raise AssertionError(f"adapter {adapter_id} is placed but not staged")
        self.slots[slot] = adapter_id

    def drop(self, adapter_id: int) -> None:
        self.staged.remove(adapter_id)

    def clear(self, slot: int) -> None:
        self.slots.pop(slot, None)
