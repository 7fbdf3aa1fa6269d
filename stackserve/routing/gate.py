"""The way into a group's worker: open or shut with a reason, and never more than its limit inside."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp

from stackserve.errors import GroupNotReady, Overloaded

RETRY_SECONDS = 5


@dataclass(frozen=True)
class Endpoint:
    """A worker that answers: an HTTP session on its socket and what it can do (vLLM's task names).

    `closed` is set when the session is: what still waits for an answer then would wait for ever.
    """

    session: aiohttp.ClientSession
    tasks: frozenset[str]
    closed: asyncio.Event = field(default_factory=asyncio.Event)


class Hosted:
    """Stands in an endpoint's place where models are asked by the Open Inference Protocol alone: what
    it is to the edge, `hosting.host` says.
    """


class Gate:
    """Owned by the group's deployment, which opens and shuts it; passed by every request."""

    def __init__(self, group: str, limit: int) -> None:
        self.group = group
        self.limit = limit
        self._endpoint: Endpoint | Hosted | None = None
        self._reason = "it is starting"
        self._retry_after = RETRY_SECONDS
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._names: Counter[str] = Counter()
        self._unused: dict[str, asyncio.Event] = {}

    @property
    def endpoint(self) -> Endpoint | Hosted | None:
        """The worker behind an open gate, for questions that are no requests; None while it is shut."""
        return self._endpoint

    @property
    def inside(self) -> int:
        """Requests that run or wait in the worker now."""
        return self._inside

    def open(self, endpoint: Endpoint | Hosted) -> None:
        self._endpoint = endpoint

    def shut(self, reason: str, retry_after: int = RETRY_SECONDS) -> None:
        """`reason` completes the sentence "group g does not answer now: …"; clients are told to try
        again after `retry_after` seconds.
        """
        self._endpoint = None
        self._reason = reason
        self._retry_after = retry_after

    def not_ready(self) -> GroupNotReady:
        """Why nobody gets in."""
        return GroupNotReady(
            f"group {self.group} does not answer now: {self._reason}", retry_after=self._retry_after
        )

    @contextmanager
    def enter(self, worker_model: str) -> Iterator[Endpoint | Hosted]:
        """Count one request in, under the worker's name of its model, and out again however it ends.

        Raises GroupNotReady while shut, Overloaded when the limit is reached.
        """
        if self._endpoint is None:
            raise self.not_ready()
        if self._inside >= self.limit:
            raise Overloaded(
                f"group {self.group} already works on {self._inside} requests "
                f"(max_in_flight); try again later"
            )
        self._inside += 1
        self._names[worker_model] += 1
        self._empty.clear()
        try:
            yield self._endpoint
        finally:
            self._inside -= 1
            if self._inside == 0:
                self._empty.set()
            self._leave(worker_model)

    async def empty(self) -> None:
        """Wait until no request is inside."""
        await self._empty.wait()

    def uses(self, worker_model: str) -> bool:
        """Whether a request is inside that named this model of the worker's.

        False means for ever, for a name that the routes no longer have, and then the worker may forget
        it: no request is on its way there. For between `RoutingSnapshot.resolve`, which gives a request
        the name, and `enter`, which counts it, nothing is awaited. So when the routes are swapped, each
        request has either entered under the old name or will resolve by the new routes. And it leaves
        only when the worker's whole answer has been passed on or nobody wants it any more, so that the
        worker, which may look the name up at any time until then, always finds it.
        """
        return worker_model in self._names

    async def unused(self, worker_model: str) -> None:
        """Wait until no request inside uses a name."""
        while self.uses(worker_model):
            await self._unused.setdefault(worker_model, asyncio.Event()).wait()

    def _leave(self, worker_model: str) -> None:
        self._names[worker_model] -= 1
        if not self._names[worker_model]:
            del self._names[worker_model]
            if unused := self._unused.pop(worker_model, None):
                unused.set()
