"""Which adapter gets a slot, and which gives one up, as a function of what is seen."""

from __future__ import annotations

from typing import Any

import pytest

from stackserve.engine.slot_policy import Candidate, PolicySettings, Resident, SlotMoves, decide

NOW = 100.0
SETTINGS = PolicySettings(starvation_seconds=2.0, min_residency_seconds=0.5)


def resident(number: int, **facts: Any) -> Resident:
    """An idle adapter in the slot of its number, there for long."""
    values = {
        "id": number,
        "slot": number,
        "running": 0,
        "waiting": 0,
        "remaining": 0,
        "since": 0.0,
        "runs_since": 0.0,
        "waits_since": None,
        "worth": 1.0,
        "pinned": False,
        "draining": False,
    }
    return Resident(**(values | facts))


def moves(
    residents: list[Resident],
    *candidates: Candidate,
    free: tuple[int, ...] = (),
    settings: PolicySettings = SETTINGS,
) -> SlotMoves:
    return decide(NOW, residents, free, candidates, settings)


def test_free_slots_come_before_evictions() -> None:
    chosen = moves([resident(0)], Candidate(9, NOW), free=(1,))
    assert (chosen.evict, chosen.place) == ((), ((9, 1),))


@pytest.mark.parametrize(
    "busy",
    [{"running": 1}, {"waiting": 1}, {"pinned": True}],
    ids=["runs", "is asked for", "pinned"],
)
def test_what_is_used_or_pinned_is_not_evicted(busy: dict[str, Any]) -> None:
    assert moves([resident(0, **busy)], Candidate(9, NOW)) == SlotMoves()


def test_the_least_worth_goes_first() -> None:
    chosen = moves([resident(0, worth=3.0), resident(1, worth=1.0)], Candidate(9, NOW))
    assert (chosen.evict, chosen.place) == ((1,), ((9, 1),))


def test_what_has_drained_goes_before_all_others() -> None:
    drained = resident(0, worth=9.0, waiting=5, draining=True)
    assert moves([resident(1, worth=0.0), drained], Candidate(9, NOW)).evict == (0,)


def test_candidates_are_served_in_their_order_as_far_as_slots_go() -> None:
    chosen = moves([resident(0), resident(1, running=1)], Candidate(8, NOW), Candidate(9, NOW))
    assert chosen.place == ((8, 0),)


def test_nobody_drains_before_somebody_starves() -> None:
    assert not moves([resident(0, running=1)], Candidate(9, NOW - 1.9)).draining
    assert moves([resident(0, running=1)], Candidate(9, NOW - 2.0)).draining == {0}


def test_the_least_work_left_drains_one_for_each_that_starves() -> None:
    residents = [resident(n, running=1, remaining=left) for n, left in enumerate((30, 10, 20))]
    starving = Candidate(8, 0.0), Candidate(9, 0.0)
    assert moves(residents, starving[0]).draining == {1}
    assert moves(residents, *starving).draining == {1, 2}


def test_who_drains_goes_on_draining_though_another_has_less_left_now() -> None:
    residents = [
        resident(0, running=1, remaining=30, draining=True),
        resident(1, running=1, remaining=10),
    ]
    assert moves(residents, Candidate(9, 0.0)).draining == {0}


def test_draining_ends_when_nobody_starves_any_more() -> None:
    residents = [resident(0, running=1, draining=True)]
    assert not moves(residents).draining


def test_neither_the_pinned_nor_the_newly_come_drain() -> None:
    residents = [resident(0, running=1, pinned=True), resident(1, running=1, since=NOW - 0.4)]
    assert not moves(residents, Candidate(9, 0.0)).draining


def test_a_pinned_one_waits_for_nobody_to_starve() -> None:
    chosen = moves([resident(0, running=1)], Candidate(9, NOW, urgent=True))
    assert chosen.draining == {0}


def test_a_resident_kept_out_of_a_full_batch_lets_another_drain() -> None:
    settings = PolicySettings(2.0, 0.5, adapters_per_batch=1)
    outside = resident(1, waiting=1, waits_since=NOW - 3)
    assert moves([resident(0, running=1), outside], settings=settings).draining == {0}
    assert not moves([resident(0), outside], settings=settings).draining, "there is room"
    assert not moves([resident(0, running=1), outside]).draining, "a batch takes all slots"


def test_who_starves_of_the_batch_does_not_drain_for_itself() -> None:
    settings = PolicySettings(2.0, 0.0, adapters_per_batch=1)
    starved = resident(1, waiting=1, waits_since=NOW - 3)
    running = resident(0, running=1, remaining=50, runs_since=NOW - 1)
    assert moves([running, starved], settings=settings).draining == {0}


def test_a_pinned_one_may_have_to_leave_the_batch_but_not_its_slot() -> None:
    settings = PolicySettings(2.0, 0.0, adapters_per_batch=1)
    starved = resident(1, waiting=1, waits_since=NOW - 3)
    pinned = resident(0, running=1, pinned=True, runs_since=NOW - 1)
    chosen = moves([pinned, starved], settings=settings)
    assert (chosen.evict, chosen.draining) == ((), {0})


def test_who_has_just_entered_the_batch_stays_for_its_minimum() -> None:
    settings = PolicySettings(2.0, 0.5, adapters_per_batch=1)
    starved = resident(1, waiting=1, waits_since=NOW - 3)
    assert not moves(
        [resident(0, running=1, runs_since=NOW - 0.4), starved], settings=settings
    ).draining
