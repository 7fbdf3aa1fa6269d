"""When a dead worker is started again, for any history of deaths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackserve.workers.backoff import BREAKER, FIRST_PAUSE, LONGEST_PAUSE, WINDOW, after_death

histories = st.lists(st.floats(0, 1e6), max_size=2 * BREAKER).map(sorted)


@pytest.mark.parametrize(
    ("ages", "pause", "broken"),
    [
        ((0,), 0.5, False),
        ((5, 0), 2.0, False),
        ((9, 5, 0), 8.0, False),
        ((99, 9, 5, 0), 32.0, False),
        ((199, 99, 9, 5, 0), LONGEST_PAUSE, True),
        ((WINDOW + 1, 0), 0.5, False),
        ((WINDOW, 0), 0.5, False),
        ((WINDOW - 1, 0), 2.0, False),
        ((WINDOW, 99, 9, 5, 0), 32.0, False),
    ],
)
def test_pauses_grow_with_recent_deaths(
    ages: tuple[float, ...], pause: float, broken: bool
) -> None:
    now = 1e4
    verdict = after_death([now - age for age in ages], now)
    assert (verdict.pause, verdict.broken) == (pause, broken)


@given(histories, st.floats(0, 1e6))
def test_never_pauses_shorter_than_at_first_nor_longer_than_at_last(
    deaths: list[float], later: float
) -> None:
    now = (deaths[-1] if deaths else 0.0) + later
    assert FIRST_PAUSE <= after_death([*deaths, now], now).pause <= LONGEST_PAUSE


@given(st.floats(0, 1e6), st.lists(st.floats(0, WINDOW - 1), min_size=BREAKER - 1))
def test_is_broken_after_enough_deaths_within_the_window(now: float, ages: list[float]) -> None:
    assert after_death([*(now - age for age in ages), now], now).broken


@given(histories)
def test_forgives_after_the_window(deaths: list[float]) -> None:
    now = (deaths[-1] if deaths else 0.0) + 2 * WINDOW
    assert after_death([*deaths, now], now).pause == FIRST_PAUSE


@given(histories, st.floats(0, WINDOW))
def test_another_death_never_shortens_the_pause(deaths: list[float], age: float) -> None:
    now = (deaths[-1] if deaths else 0.0) + 1
    fewer, more = [*deaths, now], sorted([*deaths, now - min(age, now), now])
    assert after_death(fewer, now).pause <= after_death(more, now).pause
