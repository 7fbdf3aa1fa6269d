"""The same seed gives the same traffic; shares, lengths and who waits for whom are as they are said to be."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.adapters.scenes import (
    COLD,
    HOT,
    NEVER_LOADED,
    STEADY,
    loads,
    popularity,
    starvation,
    thrash,
)
from benchmarks.adapters.sizes import FULL, QUICK
from benchmarks.adapters.traffic import (
    ANSWER_TOKENS,
    PROMPT_TOKENS,
    TEXTS,
    Ask,
    Lanes,
    adapters_of,
    arrivals,
    in_turn,
    power_law,
    together,
)
from benchmarks.lora_tax.cells import Ranks

RANK_8 = Ranks("8", (8,))


def test_shares_fall_with_the_rank() -> None:
    shares = power_law(1000)
    assert sum(shares) == pytest.approx(1.0)
    assert shares[0] == pytest.approx(2 * shares[1]) == pytest.approx(1000 * shares[-1])


def test_arrivals_come_from_the_seed_alone() -> None:
    assert arrivals(power_law(5), 50, 3.0, "a") == arrivals(power_law(5), 50, 3.0, "a")
    assert arrivals(power_law(5), 50, 3.0, "a") != arrivals(power_law(5), 50, 3.0, "b")


def test_arrivals_keep_the_rate_the_shares_and_the_lengths() -> None:
    traffic = arrivals(power_law(5), 4000, 3.0, "seed")
    assert traffic[-1].at == pytest.approx(4000 / 3, rel=0.1)
    counts = Counter(ask.adapter for ask in traffic)
    for adapter, share in enumerate(power_law(5)):
        assert counts[adapter] / 4000 == pytest.approx(share, abs=0.03)
    assert {ask.prompt_tokens for ask in traffic} == set(
        range(PROMPT_TOKENS[0], PROMPT_TOKENS[1] + 1)
    )
    assert {ask.tokens for ask in traffic} == set(range(ANSWER_TOKENS[0], ANSWER_TOKENS[1] + 1))
    assert all(0 <= ask.text < TEXTS for ask in traffic)


def test_a_lane_sends_when_its_last_was_answered_and_lanes_do_not_wait_for_each_other() -> None:
    asks = Lanes(adapters=(0, 1), each=2, prompt_tokens=4, tokens=4, role=HOT).asks(3)
    assert [ask.after for ask in asks] == [None, 0, 1, None, 3, 4, None, 6, 7, None, 9, 10]
    assert [ask.adapter for ask in asks[::3]] == [0, 1, 0, 1]


def test_lanes_of_an_adapter_do_not_end_at_one_moment() -> None:
    asks = Lanes(adapters=(0, 1), each=2, prompt_tokens=4, tokens=4, role=HOT).asks(2)
    assert [ask.tokens for ask in asks] == [2, 4, 2, 4, 4, 4, 4, 4]


def test_put_together_asks_still_wait_for_the_one_they_waited_for() -> None:
    lane = in_turn([Ask(0.0, 0, 0, 4, 4), Ask(0.0, 1, 1, 4, 4)])
    both = together((Ask(1.0, None, 0, 4, 4),), lane)
    assert [ask.after for ask in both] == [None, None, 1]
    assert adapters_of(both) == {0, 1}


def test_every_variant_gets_the_same_session_and_every_round_another() -> None:
    for scene in popularity(QUICK, RANK_8, (5, 40)):
        assert scene.traffic(0) == scene.traffic(0)
        assert scene.traffic(0) != scene.traffic(1)


def test_few_and_many_adapters_are_flooded_alike_and_the_most_are_streamed_too() -> None:
    scenes = {scene.title: scene.traffic(0) for scene in popularity(FULL, RANK_8, (5, 1000))}
    assert {title: len(traffic) for title, traffic in scenes.items()} == {
        "rank 8, 5 adapters, flood": FULL.flood_asks,
        "rank 8, 1000 adapters, flood": FULL.flood_asks,
        "rank 8, 1000 adapters, stream": FULL.stream_asks,
    }


def test_thrash_asks_as_many_adapters_as_slots_and_twice_as_many() -> None:
    fitting, thrashed = thrash(FULL)
    assert adapters_of(fitting.traffic(0)) == set(range(FULL.slots))
    assert adapters_of(thrashed.traffic(0)) == set(range(2 * FULL.slots))


def test_the_cold_ask_is_of_an_adapter_that_no_round_before_has_loaded() -> None:
    alone, with_cold = starvation(FULL)
    cold = [[ask for ask in with_cold.traffic(n) if ask.role == COLD] for n in range(3)]
    assert [[ask.adapter for ask in asks] for asks in cold] == [
        [NEVER_LOADED], [NEVER_LOADED + 1], [NEVER_LOADED + 2],
    ]  # fmt: skip
    assert tuple(ask for ask in with_cold.traffic(0) if ask.role == HOT) == alone.traffic(0)


def test_visitors_differ_in_their_adapters_alone() -> None:
    quiet, warm, new = (scene.traffic(1) for scene in loads(FULL))
    assert {ask.role for ask in quiet} == {STEADY}
    assert [replace(ask, adapter=None) for ask in warm] == [
        replace(ask, adapter=None) for ask in new
    ]
    visitors = [ask.adapter for ask in new if ask.role == COLD]
    assert len(visitors) == len(set(visitors)) > 10
    before = {ask.adapter for ask in tuple(loads(FULL))[2].traffic(0) if ask.role == COLD}
    assert not before & set(visitors)
