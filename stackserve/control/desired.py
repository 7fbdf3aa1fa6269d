"""What to do next about a deployment of the store: a pure function of what is wanted and what runs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from stackserve.catalog.deployments import State, UpdateType, Wanted
from stackserve.control.states import DeploymentState, DeploymentStatus

Json = dict[str, Any]


@dataclass(frozen=True)
class Content:
    """What is served: a group, and the deployment's configuration around it."""

    group_id: str
    environment: tuple[tuple[str, str], ...] = ()
    """Of the configuration, what an engine is started with."""


@dataclass(frozen=True)
class Wish:
    """A deployment's row, as far as it says what to do."""

    id: str
    name: str
    state: Wanted
    content: Content
    served: Content | None
    """What was brought to service before, and is known to work."""
    update_type: UpdateType | None
    work: str | None = None
    """The work request that it came with."""


class Step(Enum):
    START = auto()
    """An engine, with what served before, or else with what is wanted."""
    SWITCH = auto()
    """The members of the running engine."""
    REPLACE = auto()
    """The engine, by one beside it."""
    STOP = auto()
    FORGET = auto()
    """The row."""
    REST = auto()


def next_step(wish: Wish, running: Content | None) -> Step:
    """`running` is what an engine was started for or brought to; None when there is none."""
    if wish.state is not Wanted.ACTIVE:
        if running is not None:
            return Step.STOP
        return Step.FORGET if wish.state is Wanted.DELETED else Step.REST
    if running is None:
        return Step.START
    if running == wish.content:
        return Step.REST
    if wish.served is None:
        return Step.STOP  # it never served, so the next one need not stand beside it
    same_engine = running.environment == wish.content.environment
    return Step.SWITCH if wish.update_type is UpdateType.LIVE and same_engine else Step.REPLACE


def lifecycle(status: DeploymentStatus, *, updating: bool) -> tuple[State, str]:
    """What is told of a running deployment: its state and details."""
    if updating:
        return State.UPDATING, status.update or status.detail
    match status.state:
        case DeploymentState.READY:
            if not status.refused:
                return State.ACTIVE, status.update or status.detail
            first = status.refused[0]
            rest = f", and {len(status.refused) - 1} more" if len(status.refused) > 1 else ""
            return (
                State.NEEDS_ATTENTION,
                f"{first.key} is not served: {first.message} ({first.code}){rest}",
            )
        case DeploymentState.FAILED if not status.was_ready:
            return State.FAILED, status.detail
        case DeploymentState.PREPARING | DeploymentState.STARTING if not status.was_ready:
            return State.CREATING, status.detail
        case _:
            return State.NEEDS_ATTENTION, status.detail
