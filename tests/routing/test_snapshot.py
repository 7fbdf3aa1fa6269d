"""Resolving a name: a key, a model id, or an error that says what to write; never a guess."""

from __future__ import annotations

import pytest

from stackserve.errors import GroupNotReady, MemberRefused, StackserveError, UnknownModel
from stackserve.routing.gate import Gate
from stackserve.routing.snapshot import MAX_SHOWN, GroupRoutes, Routes, RoutingSnapshot, Way
from stackserve.types import Refusal, Target


def target(key: str, group: str = "g", version: str = "1") -> Target:
    return Target(group, version, key, f"{group}/{key}", f"{key}@sha", "sha", "base")


GATE = Gate("g", 1)
SERVED = GroupRoutes(
    GATE,
    targets=(target("base"), target("pirate"), target("terse")),
    refusals=(Refusal("g", "broken", "g/broken", "value_nan", "A tensor holds NaN."),),
)
LOADING = GroupRoutes(Gate("h", 1), pending=("later", "h/later"))
SNAPSHOT = RoutingSnapshot({"g": SERVED, "h": LOADING})


@pytest.mark.parametrize("name", ["pirate", "g/pirate"])
def test_a_key_and_a_model_id_mean_the_same_weights(name: str) -> None:
    assert SNAPSHOT.resolve(name) == Way(target("pirate"), GATE)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("broken", MemberRefused, "model broken is configured but not served: A tensor holds NaN."),
        ("g/broken", MemberRefused, "(value_nan)"),
        ("later", GroupNotReady, "group h does not answer now: it is starting"),
        ("h/later", GroupNotReady, "group h"),
        ("pirat", UnknownModel, "no model 'pirat' is served here; did you mean pirate or g/pirate"),
        ("Pirate", UnknownModel, "did you mean pirate"),
        ("gpt-4o", UnknownModel, "GET /v1/models lists what is"),
        ("", UnknownModel, "no model '' is served here"),
        ("pirate ", UnknownModel, "did you mean pirate"),
        ("pirate@sha", UnknownModel, "did you mean pirate"),
    ],
)
def test_any_other_name_is_an_error_that_helps(
    name: str, error: type[StackserveError], message: str
) -> None:
    with pytest.raises(error) as caught:
        SNAPSHOT.resolve(name)
    assert message in caught.value.message


def test_a_huge_name_is_not_repeated_whole() -> None:
    with pytest.raises(UnknownModel) as caught:
        SNAPSHOT.resolve("x" * 100_000)
    assert len(caught.value.message) < MAX_SHOWN + 100


def test_replacing_a_group_leaves_the_old_snapshot_and_the_other_groups_as_they_were() -> None:
    newer = SNAPSHOT.with_group("g", GroupRoutes(GATE, targets=(target("pirate", version="2"),)))
    assert newer.resolve("pirate").target.version == "2"
    assert SNAPSHOT.resolve("pirate").target.version == "1"
    with pytest.raises(UnknownModel):
        newer.resolve("terse")
    with pytest.raises(GroupNotReady):
        newer.resolve("later")


@pytest.mark.parametrize("table", ["targets", "refusals", "pending"])
def test_a_snapshot_cannot_be_changed(table: str) -> None:
    with pytest.raises(TypeError):
        getattr(SNAPSHOT.names, table)["x"] = None


def test_publishing_swaps_what_requests_see() -> None:
    routes = Routes()
    before = routes.current
    routes.publish("g", SERVED)
    assert routes.current.resolve("terse").target.key == "terse"
    assert not before.names.targets
