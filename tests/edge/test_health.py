"""One word for the states of all groups."""

from __future__ import annotations

import pytest

from stackserve.control.states import DeploymentState, DeploymentStatus
from stackserve.edge.health import readiness


def status(written: str) -> DeploymentStatus:
    """`+` after a state says that the group has answered before."""
    return DeploymentStatus(
        group="g", state=DeploymentState(written.rstrip("+")), detail="", version=None, served=0,
        refused=(), in_flight=0, worker_pid=None, seconds_in_state=0,
        was_ready=written.endswith("+"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("groups", "word"),
    [
        ("preparing", "loading"),
        ("starting", "loading"),
        ("restarting", "loading"),
        ("ready+", "ready"),
        ("ready+ ready+", "ready"),
        ("ready+ starting", "loading"),
        ("ready+ restarting+", "degraded"),
        ("ready+ starting+", "degraded"),
        ("ready+ failed", "degraded"),
        ("failed", "down"),
        ("failed+", "down"),
        ("restarting+", "down"),
        ("failed starting", "loading"),
        ("stopped+ stopped+", "down"),
    ],
)
def test_says_how_ready_the_server_is(groups: str, word: str) -> None:
    assert readiness([status(each) for each in groups.split()]) == word
