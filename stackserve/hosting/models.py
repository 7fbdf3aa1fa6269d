"""The models of a group, one record for each version: what it is, and where it is."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from stackserve.hosting.channel import Channel
from stackserve.hosting.residency import Resident
from stackserve.hosting.statistics import Statistics
from stackserve.runtimes.base import Metadata
from stackserve.runtimes.protocol import Batching


class ModelState(StrEnum):
    """The protocol's words are made of these by the edge."""

    UNLOADED = "unloaded"
    """It is loaded when it is asked for."""
    LOADING = "loading"
    """Room is made for it, or it is on its way."""
    READY = "ready"
    UNLOADING = "unloading"
    QUARANTINED = "quarantined"
    """It was worked on at two crashes of its worker running."""


_S = ModelState

MOVES: dict[ModelState, frozenset[ModelState]] = {
    _S.UNLOADED: frozenset({_S.LOADING, _S.QUARANTINED}),
    _S.LOADING: frozenset({_S.READY, _S.UNLOADED, _S.QUARANTINED}),
    _S.READY: frozenset({_S.UNLOADING, _S.UNLOADED, _S.QUARANTINED}),
    _S.UNLOADING: frozenset({_S.UNLOADED, _S.QUARANTINED}),
    _S.QUARANTINED: frozenset({_S.UNLOADED}),
}


@dataclass(frozen=True)
class ModelSource:
    """What is served under a key and a version; two that are equal are the same model."""

    key: str
    version: str
    folder: Path
    runtime: str
    stamp: str
    """Changes with the files."""
    options: Mapping[str, Any] = field(default_factory=dict)
    batching: Batching = field(default_factory=Batching)
    pinned: bool = False

    @property
    def name(self) -> str:
        """For logs and errors."""
        return f"{self.key} (version {self.version})" if self.version != "1" else self.key


@dataclass(frozen=True)
class Failure:
    """Why a model could not be loaded, and when."""

    code: str
    message: str
    at: float


class HostedModel:
    """Owned by the host. `number` names it to its worker and is never used again."""

    def __init__(self, number: int, source: ModelSource) -> None:
        self.number = number
        self.source = source
        self.state = ModelState.UNLOADED
        self.channel: Channel | None = None
        """To the worker that has it, while it is READY."""
        self.metadata: Metadata | None = None
        """Known since it was loaded first."""
        self.charge = 0
        self.need = 0
        """Bytes that it will be charged, once known."""
        self.uses = 0
        self.last_used = 0.0
        self.loading: asyncio.Task[None] | None = None
        self.failure: Failure | None = None
        self.reason = ""
        """Why it is not ready."""
        self.wanted_back = False
        """It was ready when its worker died."""
        self._unused = asyncio.Event()
        self._moved = asyncio.Event()
        """Set, and replaced, when `state` changes."""
        self.statistics = Statistics()

    def move(self, state: ModelState, reason: str = "") -> None:
        """AssertionError for a move that is not in `MOVES`."""
        if state not in MOVES[self.state]:
            raise AssertionError(f"{self.source.name}: no move from {self.state} to {state}")
        self.state = state
        self.reason = reason
        self._moved.set()
        self._moved = asyncio.Event()
        if state is not ModelState.READY:
            self.channel = None
        if state in (ModelState.UNLOADED, ModelState.QUARANTINED):
            self.charge = 0

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While the block runs the model is not sent away."""
        self.uses += 1
        try:
            yield
        finally:
            self.uses -= 1
            self.last_used = time.monotonic()
            if not self.uses:
                self._unused.set()

    async def unused(self) -> None:
        """Wait until nobody uses it."""
        while self.uses:
            self._unused.clear()
            await self._unused.wait()

    async def gone(self) -> None:
        """Wait until it is not on its way out any more."""
        while self.state is ModelState.UNLOADING:
            await self._moved.wait()

    def quarantine(self, reason: str) -> None:
        """Keep it out until somebody asks for it to be loaded."""
        self.wanted_back = False
        self.move(ModelState.QUARANTINED, reason)

    def resident(self) -> Resident:
        """As the budget sees it."""
        busy = self.uses > 0 or self.state in (ModelState.LOADING, ModelState.UNLOADING)
        return Resident(self.number, self.charge, self.last_used, busy, self.source.pinned)


def stamp_of(folder: Path) -> str:
    """Changes with the names, sizes and times of the files in a folder; empty when it is gone."""
    try:
        stats = [
            (str(path.relative_to(folder)), (stat := path.stat()).st_size, stat.st_mtime_ns)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
    except OSError:
        return ""
    return hashlib.sha256(repr(stats).encode()).hexdigest() if stats else ""
