"""An alias spreads requests over its members by their weights."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackserve.routing.policy import Alias, WeightedMember, choose


def alias(shadow: str | None = None, **weights: float) -> Alias:
    return Alias("canary", tuple(WeightedMember(k, w) for k, w in weights.items()), shadow)


BEFORE_ONE = math.nextafter(1, 0)


@pytest.mark.parametrize(
    ("draw", "key"),
    [(0, "a"), (math.nextafter(0.25, 0), "a"), (0.25, "b"), (0.75, "c"), (BEFORE_ONE, "c")],
)
def test_a_part_begins_where_the_one_before_it_ends(draw: float, key: str) -> None:
    assert choose(alias(a=1, b=2, c=1), draw) == key


def test_evenly_spread_draws_give_each_member_exactly_its_part() -> None:
    counted = Counter(choose(alias(a=90, b=9, c=1), n / 1000) for n in range(1000))
    assert counted == {"a": 900, "b": 90, "c": 10}


def test_only_the_proportion_of_weights_matters() -> None:
    draws = [n / 997 for n in range(997)]
    small, large = alias(a=0.5, b=1.5), alias(a=1000, b=3000)
    assert [choose(small, draw) for draw in draws] == [choose(large, draw) for draw in draws]


@given(
    st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=32),
    st.floats(0, 1, exclude_max=True) | st.just(BEFORE_ONE),
)
def test_every_draw_finds_a_member(weights: list[float], draw: float) -> None:
    members = tuple(WeightedMember(f"m{n}", weight) for n, weight in enumerate(weights))
    assert choose(Alias("x", members), draw) in {member.key for member in members}


def test_the_others_share_the_part_of_a_member_that_is_not_served() -> None:
    left = alias(a=1, b=1, c=2).among({"a", "c"})
    assert left is not None
    assert Counter(choose(left, n / 9) for n in range(9)) == {"a": 3, "c": 6}


def test_an_alias_without_any_served_member_is_none() -> None:
    assert alias(a=1, b=1).among({"c"}) is None


def test_a_shadow_that_is_not_served_is_left_out() -> None:
    left = alias(shadow="b", a=1).among({"a"})
    assert left is not None
    assert left.shadow is None
