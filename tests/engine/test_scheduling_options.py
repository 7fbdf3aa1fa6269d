"""What an operator may set of scheduling: every mistake is named."""

from __future__ import annotations

from typing import Any

import pytest

from stackserve.engine.scheduling_options import SchedulingOptions


def test_what_is_not_given_has_its_default() -> None:
    assert SchedulingOptions.from_config({}) == SchedulingOptions()
    options = SchedulingOptions.from_config({"stackserve": {"stagers": 3}, "other": 1})
    assert options == SchedulingOptions(stagers=3)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"stager": 1}, "stackserve.stager is not an option of scheduling; there are adapters_per"),
        ({"stagers": 0}, "stackserve.stagers is 0; it must be an integer, at least 1"),
        ({"stagers": 1.5}, "stackserve.stagers is 1.5; it must be an integer"),
        ({"stagers": True}, "stackserve.stagers is True; it must be an integer"),
        ({"host_bytes": -1}, "stackserve.host_bytes is -1; it must be an integer, at least 1"),
        ({"adapters_per_batch": 0}, "stackserve.adapters_per_batch is 0"),
        ({"starvation_seconds": -1}, "starvation_seconds is -1; it must be a number, at least 0"),
        ({"starvation_seconds": float("nan")}, "starvation_seconds is nan; it must be a number"),
        ({"min_residency_seconds": "1"}, "min_residency_seconds is '1'; it must be a number"),
    ],
)
def test_a_mistake_is_named(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("'", "'")):
        SchedulingOptions.from_config({"stackserve": section})
