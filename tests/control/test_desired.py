"""What to do next about a deployment, and what is told of it."""

from __future__ import annotations

import pytest

from stackserve.catalog.deployments import State, UpdateType, Wanted
from stackserve.control.desired import Content, Step, Wish, lifecycle, next_step
from stackserve.control.states import DeploymentState, DeploymentStatus
from stackserve.types import Refusal

OLD, NEW = Content("old"), Content("new")
LONGER = Content("new", (("STACKSERVE_MAX_MODEL_LEN", "512"),))
REFUSAL = Refusal("g", "k", "m", "value_nan", "it has NaN")


def wish(
    content: Content = NEW,
    state: Wanted = Wanted.ACTIVE,
    update: UpdateType | None = UpdateType.LIVE,
    served: Content | None = OLD,
) -> Wish:
    return Wish("ocid1.d", "g", state, content, served, update)


@pytest.mark.parametrize(
    ("wanted", "running", "step"),
    [
        (wish(), None, Step.START),
        (wish(), NEW, Step.REST),
        (wish(), OLD, Step.SWITCH),
        (wish(update=UpdateType.ZDT), OLD, Step.REPLACE),
        (wish(update=None), OLD, Step.REPLACE),
        (wish(LONGER), OLD, Step.REPLACE),
        (wish(served=None), OLD, Step.STOP),
        (wish(served=None), NEW, Step.REST),
        (wish(served=None), None, Step.START),
        (wish(state=Wanted.INACTIVE), OLD, Step.STOP),
        (wish(state=Wanted.INACTIVE), None, Step.REST),
        (wish(state=Wanted.DELETED), OLD, Step.STOP),
        (wish(state=Wanted.DELETED), None, Step.FORGET),
    ],
)
def test_the_next_step_follows_from_what_is_wanted_and_what_runs(
    wanted: Wish, running: Content | None, step: Step
) -> None:
    assert next_step(wanted, running) is step


@pytest.mark.parametrize(
    ("state", "was_ready", "refused", "told"),
    [
        (DeploymentState.PREPARING, False, (), State.CREATING),
        (DeploymentState.STARTING, False, (), State.CREATING),
        (DeploymentState.READY, True, (), State.ACTIVE),
        (DeploymentState.READY, True, (REFUSAL,), State.NEEDS_ATTENTION),
        (DeploymentState.RESTARTING, True, (), State.NEEDS_ATTENTION),
        (DeploymentState.STARTING, True, (), State.NEEDS_ATTENTION),
        (DeploymentState.FAILED, False, (), State.FAILED),
        (DeploymentState.FAILED, True, (), State.NEEDS_ATTENTION),
    ],
)
def test_a_running_deployment_is_told_in_ocis_states(
    state: DeploymentState, was_ready: bool, refused: tuple[Refusal, ...], told: State
) -> None:
    status = DeploymentStatus("g", state, "why", None, 1, refused, 0, None, 0.0, was_ready)
    found, details = lifecycle(status, updating=False)
    assert found is told
    assert ("k is not served: it has NaN (value_nan)" if refused else "why") == details
