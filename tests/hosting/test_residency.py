"""Who must go for whom, decided purely."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stackserve.hosting.residency import (
    Resident,
    blamed_again,
    idle,
    keeps_memory,
    never_fits,
    victims,
)


def resident(model: int, charge: int, last_used: float = 0, **more: bool) -> Resident:
    return Resident(model, charge, last_used, more.get("in_use", False), more.get("pinned", False))


def test_nobody_goes_where_there_is_room() -> None:
    assert victims([resident(1, 50)], 100, 50) == ()


def test_what_was_used_least_recently_goes_first_and_no_more_than_needed() -> None:
    models = [resident(1, 40, 3), resident(2, 40, 1), resident(3, 20, 2)]
    assert victims(models, 100, 30) == (2,)
    assert victims(models, 100, 50) == (2, 3)


def test_what_is_in_use_or_pinned_stays() -> None:
    models = [resident(1, 60, 1, in_use=True), resident(2, 20, 2, pinned=True), resident(3, 20, 3)]
    assert victims(models, 100, 20) == (3,)
    assert victims(models, 100, 30) is None


def test_a_model_never_fits_beside_pinned_ones_alone() -> None:
    models = [resident(1, 60, in_use=True), resident(2, 30, pinned=True)]
    assert not never_fits(models, 100, 70)
    assert never_fits(models, 100, 71)


def test_idle_models_are_those_that_nobody_asked_for_so_long() -> None:
    models = [resident(1, 1, 5), resident(2, 1, 9), resident(3, 1, 1, pinned=True)]
    assert idle(models, 10, 5) == (1,)


def test_only_a_model_that_was_worked_on_at_both_crashes_is_kept_out() -> None:
    assert blamed_again(frozenset({1, 2}), frozenset({2, 3})) == {2}


def test_memory_that_no_model_accounts_for_is_seen() -> None:
    assert keeps_memory(rss=300, baseline=100, charged=90, slack=100)
    assert not keeps_memory(rss=290, baseline=100, charged=90, slack=100)


@given(
    st.lists(
        st.builds(
            Resident,
            st.integers(0, 10**6),
            st.integers(1, 100),
            st.floats(0, 100),
            st.booleans(),
            st.booleans(),
        ),
        unique_by=lambda each: each.model,
        max_size=30,
    ),
    st.integers(0, 2000),
    st.integers(0, 300),
)
def test_whoever_goes_may_go_and_then_there_is_room(
    models: list[Resident], budget: int, need: int
) -> None:
    chosen = victims(models, budget, need)
    left = [each for each in models if chosen is None or each.model not in chosen]
    if chosen is None:
        assert sum(each.charge for each in models if not each.may_go) + need > budget
    else:
        assert all(each.may_go for each in models if each.model in chosen)
        assert sum(each.charge for each in left) + need <= budget
