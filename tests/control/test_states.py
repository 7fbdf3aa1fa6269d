"""The table of a deployment's moves."""

from __future__ import annotations

import pytest

from stackserve.control.states import MOVES, DeploymentState, DeploymentStatus


def test_every_state_has_its_moves_and_every_move_its_state() -> None:
    assert set(MOVES) == set(DeploymentState)
    assert frozenset().union(*MOVES.values()) <= set(DeploymentState)


def test_every_state_can_be_reached() -> None:
    reached = {DeploymentState.PREPARING}
    while more := frozenset().union(*(MOVES[state] for state in reached)) - reached:
        reached |= more
    assert reached == set(DeploymentState)


def test_stopped_is_final_and_can_be_reached_from_everywhere() -> None:
    assert not MOVES[DeploymentState.STOPPED]
    others = set(DeploymentState) - {DeploymentState.STOPPED}
    assert all(DeploymentState.STOPPED in MOVES[state] for state in others)


def test_only_a_starting_worker_becomes_ready() -> None:
    assert [state for state in MOVES if DeploymentState.READY in MOVES[state]] == ["starting"]


@pytest.mark.parametrize(
    ("state", "was_ready", "loading"),
    [
        ("preparing", False, True),
        ("starting", False, True),
        ("restarting", False, True),
        ("ready", True, False),
        ("restarting", True, False),
        ("starting", True, False),
        ("failed", False, False),
        ("stopped", False, False),
    ],
)
def test_loads_until_the_first_answer_or_failure(
    state: str, was_ready: bool, loading: bool
) -> None:
    status = DeploymentStatus(
        group="g", state=DeploymentState(state), detail="", version=None, served=0, refused=(),
        in_flight=0, worker_pid=None, seconds_in_state=0, was_ready=was_ready,
    )  # fmt: skip
    assert status.is_loading is loading
