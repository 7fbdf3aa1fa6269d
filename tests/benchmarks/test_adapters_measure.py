"""Speeds, waits and fairness are read off a session as they are defined."""

from __future__ import annotations

import math

import pytest

from benchmarks.adapters.measure import (
    Loads,
    Outcome,
    Session,
    fairness,
    gaps_between_tokens,
    jain_index,
    rows_at_once,
    tokens_per_second,
    tokens_within,
    waits_by_decile,
)
from benchmarks.adapters.traffic import Ask

GIVEN_UP = "not answered"


def answer(sent: float, *times: float) -> Outcome:
    return Outcome(sent, times, tuple(range(len(times))), "")


def session(*asked: tuple[int | None, Outcome], ended: float = 10.0) -> Session:
    traffic = tuple(Ask(0.0, adapter, 0, 8, 2, role=f"of {adapter}") for adapter, _ in asked)
    return Session(traffic, tuple(outcome for _, outcome in asked), Loads(0, 0), ended)


def test_throughput_is_all_tokens_from_the_first_ask_to_the_last_token() -> None:
    assert tokens_per_second(session((0, answer(1.0, 2.0, 3.0)), (1, answer(2.0, 4.0, 5.0)))) == 1.0


def test_tokens_are_counted_within_a_window() -> None:
    outcomes = (answer(0.0, 1.0, 2.0, 3.0), answer(0.0, 2.5, 4.0))
    assert tokens_within(outcomes, 2.0, 4.0) == 1.5


def test_rows_at_once_is_the_mean_number_of_answers_being_written() -> None:
    assert rows_at_once(session((0, answer(0.0, 0.0, 5.0)), (1, answer(0.0, 5.0, 10.0)))) == 1.0


def test_who_has_no_token_when_the_session_ends_waited_until_then() -> None:
    waiting = Outcome(4.0, (), (), GIVEN_UP)
    unsent = Outcome(None, (), (), GIVEN_UP)
    found = session((0, answer(1.0, 3.0)), (1, waiting), (2, unsent))
    assert found.waits() == [2.0, 6.0]
    assert (found.answered, found.unanswered) == (1, 1)
    assert found.of_role("of 1") == (waiting,)


def test_gaps_are_taken_within_an_answer_and_after_a_moment() -> None:
    outcomes = (answer(0.0, 1.0, 2.0, 4.0), answer(0.0, 3.0))
    assert gaps_between_tokens(outcomes) == [1.0, 2.0]
    assert gaps_between_tokens(outcomes, after=2.0) == [2.0]


def test_jain_is_one_for_all_alike_and_one_nth_when_one_has_all() -> None:
    assert jain_index([2.0, 2.0, 2.0]) == pytest.approx(1.0)
    assert jain_index([5.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert math.isnan(jain_index([0.0, 0.0]))


def test_fairness_does_not_ask_how_often_an_adapter_was_asked_but_how_fast_it_was_served() -> None:
    often = [(0, answer(float(start), start + 1.0, start + 2.0)) for start in range(4)]
    once = (1, answer(0.0, 1.0, 2.0))
    assert fairness(session(*often, once)) == pytest.approx(1.0)
    slow = (1, answer(0.0, 9.0, 10.0))
    assert fairness(session(*often, slow)) < 0.8


def test_deciles_are_tenths_of_the_requests_with_popular_adapters_first() -> None:
    popular = [(0, answer(0.0, 1.0)) for _ in range(10)]
    rare = [(number, answer(0.0, 5.0)) for number in range(1, 11)]
    deciles = waits_by_decile(session(*rare, *popular))
    assert deciles == ((1.0, 1.0),) * 5 + ((5.0, 5.0),) * 5


def test_the_tenths_of_one_adapter_are_not_its_early_and_its_late_requests() -> None:
    growing = [(0, answer(0.0, float(number))) for number in range(100)]
    medians = [p50 for p50, _ in waits_by_decile(session(*growing))]
    assert medians != sorted(medians)


def test_fewer_requests_than_ten_have_fewer_tenths() -> None:
    assert len(waits_by_decile(session((0, answer(0.0, 1.0)), (1, answer(0.0, 2.0))))) == 2
