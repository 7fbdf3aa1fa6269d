"""The states of a deployment, and the moves between them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from stackserve.types import Refusal


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

    @property
    def is_loading(self) -> bool:
        """On its way to its first answer."""
        on_its_way = self.state not in (_S.READY, _S.FAILED, _S.STOPPED)
        return on_its_way and not self.was_ready
