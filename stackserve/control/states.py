"""The states of a deployment, the moves between them, and what is told of them."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from enum import StrEnum

from stackserve.types import Refusal

logger = logging.getLogger(__name__)


class DeploymentState(StrEnum):
    PREPARING = "preparing"
    """Its base and adapters are being read and validated."""
    STARTING = "starting"
    """Its worker is on the way up."""
    READY = "ready"
    """Its worker answers."""
    RESTARTING = "restarting"
    """Its worker died; the next one starts after a pause."""
    FAILED = "failed"
    """It cannot start as configured, or keeps dying; see the reason."""
    STOPPED = "stopped"
    """The server shuts down."""


_S = DeploymentState

MOVES: dict[DeploymentState, frozenset[DeploymentState]] = {
    _S.PREPARING: frozenset({_S.STARTING, _S.FAILED, _S.STOPPED}),
    _S.STARTING: frozenset({_S.READY, _S.RESTARTING, _S.FAILED, _S.STOPPED}),
    _S.READY: frozenset({_S.RESTARTING, _S.FAILED, _S.STOPPED}),
    _S.RESTARTING: frozenset({_S.STARTING, _S.FAILED, _S.STOPPED}),
    _S.FAILED: frozenset({_S.STARTING, _S.STOPPED}),
    _S.STOPPED: frozenset(),
}


@dataclass(frozen=True)
class DeploymentStatus:
    """A look at a deployment. `detail` is the step of a start, or the reason of a failure."""

    group: str
    state: DeploymentState
    detail: str
    version: str | None
    served: int
    refused: tuple[Refusal, ...]
    in_flight: int
    worker_pid: int | None
    seconds_in_state: float
    was_ready: bool
    """Whether it has answered since the server started."""
    update: str | None = None
    """What the last update of its members did, or is doing."""

    @property
    def is_loading(self) -> bool:
        """On its way to its first answer."""
        on_its_way = self.state not in (_S.READY, _S.FAILED, _S.STOPPED)
        return on_its_way and not self.was_ready


class Standing:
    """Owns a deployment's state and what it says of itself; each change is an event."""

    def __init__(self, group: str, detail: str) -> None:
        self.state = DeploymentState.PREPARING
        self.detail = detail
        self.was_ready = False
        self.update: str | None = None
        self.change = asyncio.Event()
        """Is set, and replaced, at the next change of any of these."""
        self._group = group
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        """In this state."""
        return round(time.monotonic() - self._since, 1)

    def move(self, state: DeploymentState, detail: str) -> None:
        """Into another state. AssertionError for a move that is not in `MOVES`."""
        if state not in MOVES[self.state]:
            raise AssertionError(f"{self._group}: no move from {self.state} to {state}")
        logger.info("%s: %s: %s", self._group, state, detail)
        self.state = state
        self.was_ready = self.was_ready or state is DeploymentState.READY
        self._since = time.monotonic()
        self.report(detail)

    def report(self, detail: str) -> None:
        """The step within the state."""
        self.detail = detail
        self._tell()

    def note(self, update: str) -> None:
        """What the last update did, or is doing."""
        logger.info("%s: update: %s", self._group, update)
        self.update = update
        self._tell()

    def _tell(self) -> None:
        self.change.set()
        self.change = asyncio.Event()
