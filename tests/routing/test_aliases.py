"""Resolving an alias: to a served member by a draw, or an error as of a member that is not served."""

from __future__ import annotations

from collections import Counter

import pytest

from stackserve.errors import GroupNotReady, MemberRefused, UnknownModel
from stackserve.routing.gate import Gate
from stackserve.routing.policy import Alias, WeightedMember
from stackserve.routing.snapshot import GroupRoutes, RoutingSnapshot
from stackserve.types import Refusal, Target

ADDRESS = "ocid1.datasciencemodeldeployment.oc1.local.d"


def target(key: str) -> Target:
    return Target("g", "1", key, f"id-{key}", f"{key}@sha", "sha", "base")


def alias(shadow: str | None = None, **weights: float) -> Alias:
    return Alias("canary", tuple(WeightedMember(k, w) for k, w in weights.items()), shadow)


def routes(alias: Alias, *served: str, address: str | None = None) -> GroupRoutes:
    """A group in which `a`, `b` and the base are served, or these."""
    targets = tuple(map(target, served or ("base", "a", "b")))
    refused = tuple(
        Refusal("g", key, f"id-{key}", "value_nan", "A tensor holds NaN.")
        for key in ("a", "b")
        if served and key not in served
    )
    return GroupRoutes(Gate("g", 1), targets, refused, address=address, aliases=(alias,))


def keys(snapshot: RoutingSnapshot, name: str = "canary", draws: int = 100) -> Counter[str]:
    """How often each member is chosen by evenly spread draws."""
    return Counter(snapshot.resolve(name, n / draws).target.key for n in range(draws))


@pytest.mark.parametrize("name", ["canary", "g/canary"])
def test_an_alias_goes_to_its_members_by_their_weights(name: str) -> None:
    snapshot = RoutingSnapshot({"g": routes(alias(a=95, base=5))})
    assert keys(snapshot, name) == {"a": 95, "base": 5}
    way = snapshot.resolve(name, 0.99)
    assert (way.target.key, way.alias, way.shadow) == ("base", "canary", None)


def test_a_members_own_name_goes_by_no_alias() -> None:
    snapshot = RoutingSnapshot({"g": routes(alias(shadow="b", a=1))})
    assert snapshot.resolve("a").alias is None
    assert snapshot.resolve("a").shadow is None


def test_a_shadow_goes_with_every_member_but_itself() -> None:
    snapshot = RoutingSnapshot({"g": routes(alias(shadow="b", a=1, b=1))})
    assert snapshot.resolve("canary", 0).shadow == target("b")
    assert snapshot.resolve("canary", 0.5).shadow is None


def test_the_others_take_the_requests_of_a_refused_member() -> None:
    snapshot = RoutingSnapshot({"g": routes(alias(shadow="b", a=3, b=50, base=1), "base", "a")})
    assert keys(snapshot) == {"a": 75, "base": 25}
    assert snapshot.resolve("canary").shadow is None


@pytest.mark.parametrize("name", ["canary", "g/canary"])
def test_an_alias_whose_every_member_is_refused_answers_as_they_do(name: str) -> None:
    snapshot = RoutingSnapshot({"g": routes(alias(a=1, b=1), "base")})
    with pytest.raises(MemberRefused) as caught:
        snapshot.resolve(name)
    assert "a (value_nan), b (value_nan)" in caught.value.message


def test_an_alias_of_a_group_that_is_read_is_not_ready() -> None:
    snapshot = RoutingSnapshot({"g": GroupRoutes(Gate("g", 1), pending=("canary",))})
    with pytest.raises(GroupNotReady):
        snapshot.resolve("canary")


def test_a_deployments_alias_is_known_under_its_address_and_its_full_name() -> None:
    snapshot = RoutingSnapshot({"g": routes(alias(a=1), address=ADDRESS)})
    assert snapshot.resolve_at(ADDRESS, "canary").alias == "canary"
    assert snapshot.resolve("g/canary").alias == "canary"
    with pytest.raises(UnknownModel, match="did you mean g/canary"):
        snapshot.resolve("canary")


def test_an_alias_is_among_the_near_matches() -> None:
    with pytest.raises(UnknownModel, match="did you mean canary"):
        RoutingSnapshot({"g": routes(alias(a=1))}).resolve("canry")
