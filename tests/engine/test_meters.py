"""What the scheduler's meters count, for keys of their own and for those beyond."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackserve.meters import AdapterMeters
from stackserve.protocol import (
    GAP_BOUNDS,
    OTHER_KEY,
    WAIT_BOUNDS,
    AdapterFacts,
    AdaptersSnapshot,
    KeyNumbers,
    ResidencyFacts,
    Tally,
)


def counted(meters: AdapterMeters) -> dict[str, KeyNumbers]:
    return {numbers.key: numbers for numbers in meters.snapshot().keys}


def observations(tally: Tally, bounds: tuple[float, ...]) -> dict[float, int]:
    """Observations by the upper bound of their bucket."""
    limits = (*bounds, float("inf"))
    return {bound: n for bound, n in zip(limits, tally.counts, strict=True) if n}


def test_counts_the_life_of_a_request() -> None:
    meters = AdapterMeters()
    meters.arrived("a")
    meters.deferred("a")
    meters.loaded("a", 0.3, 1000)
    meters.admitted("a", 0.4, prompt_tokens=12)
    meters.generated("a", 1, ttft=0.5, gap=None)
    meters.generated("a", 1, ttft=None, gap=0.02)
    meters.finished("a", "length")
    meters.drained("a")
    meters.evicted("a", "device")
    meters.evicted("a", "host")
    meters.load_failed("a")
    a = counted(meters)["a"]
    assert (a.arrived, a.deferred, a.hits, a.drains) == (1, 1, 0, 1)
    assert (a.loads, a.load_seconds, a.loaded_bytes, a.load_failures) == (1, 0.3, 1000, 1)
    assert (a.prompt_tokens, a.generated_tokens, a.finished) == (12, 2, {"length": 1})
    assert observations(a.queue, WAIT_BOUNDS) == {0.5: 1}
    assert observations(a.first_token, WAIT_BOUNDS) == {0.5: 1}
    assert observations(a.gap, GAP_BOUNDS) == {0.02: 1}
    assert a.evicted == {"device": 1, "host": 1}


def test_several_tokens_at_once_are_one_pause() -> None:
    meters = AdapterMeters()
    meters.generated("a", 4, ttft=None, gap=0.2)
    a = counted(meters)["a"]
    assert a.generated_tokens == 4
    assert (sum(a.gap.counts), a.gap.sum) == (1, 0.2)


def test_an_observation_above_all_bounds_is_kept() -> None:
    meters = AdapterMeters()
    meters.admitted("a", 10_000.0, prompt_tokens=1)
    queue = counted(meters)["a"].queue
    assert observations(queue, WAIT_BOUNDS) == {float("inf"): 1}
    assert queue.sum == 10_000.0


def test_an_outcome_that_nobody_knows_is_an_error() -> None:
    meters = AdapterMeters()
    for outcome in ("stop", "error", "surprise", "another"):
        meters.finished("a", outcome)
    assert counted(meters)["a"].finished == {"stop": 1, "error": 3}


def test_the_keys_that_come_first_are_counted_one_by_one() -> None:
    meters = AdapterMeters(most_keys=2)
    for key in ("b", "a", "c", "d", "a"):
        meters.arrived(key)
    assert {key: n.arrived for key, n in counted(meters).items()} == {"b": 1, "a": 2, OTHER_KEY: 2}


@given(
    events=st.lists(
        st.tuples(st.integers(0, 50).map(lambda n: f"k{n}"), st.integers(0, 100)), max_size=200
    ),
    most=st.integers(0, 20),
)
def test_sums_are_exact_and_series_bounded_however_many_keys_come(
    events: list[tuple[str, int]], most: int
) -> None:
    meters = AdapterMeters(most_keys=most)
    for key, size in events:
        meters.arrived(key)
        meters.admitted(key, size / 10, prompt_tokens=size)
        meters.generated(key, size, ttft=size / 8, gap=None)
        meters.finished(key, "stop")
    snapshot = meters.snapshot()
    assert len(snapshot.keys) <= most + 1
    total, number = sum(size for _, size in events), len(events)
    assert sum(n.arrived for n in snapshot.keys) == number
    assert sum(n.finished.get("stop", 0) for n in snapshot.keys) == number
    assert sum(n.prompt_tokens for n in snapshot.keys) == total
    assert sum(n.generated_tokens for n in snapshot.keys) == total
    assert sum(sum(n.queue.counts) for n in snapshot.keys) == number
    assert sum(n.first_token.sum for n in snapshot.keys) == total / 8
    arrivals = Counter(key for key, _ in events)
    one_by_one = [n for n in snapshot.keys if n.key != OTHER_KEY]
    assert all(n.arrived == arrivals[n.key] for n in one_by_one)


def test_a_snapshot_does_not_change_afterwards() -> None:
    meters = AdapterMeters()

    def happen() -> None:
        meters.finished("a", "stop")
        meters.evicted("a", "device")
        meters.admitted("a", 1, prompt_tokens=3)
        meters.generated("a", 1, ttft=1, gap=1)
        meters.loaded("a", 1, 1)

    happen()
    snapshot = meters.snapshot()
    kept = msgspec.json.encode(snapshot)
    happen()
    assert msgspec.json.encode(snapshot) == kept


def test_keys_that_only_residency_knows_are_in_the_snapshot() -> None:
    meters = AdapterMeters(most_keys=2)
    adapters = (AdapterFacts("a", "host"), AdapterFacts("b", "staging"))
    snapshot = meters.snapshot(ResidencyFacts(8, 1, 2, adapters))
    assert [numbers.key for numbers in snapshot.keys] == ["base", "a", OTHER_KEY]


@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack])
def test_a_snapshot_survives_the_way_to_the_gateway(codec: type[msgspec.json]) -> None:
    meters = AdapterMeters()
    meters.admitted("a", 0.4, prompt_tokens=12)
    meters.finished("a", "stop")
    facts = AdapterFacts("a", "device", 1000, running=1, pinned=True, draining=True)
    snapshot = meters.snapshot(ResidencyFacts(8, 1, 2, (facts,), "smol", 3, 4))
    assert codec.decode(codec.encode(snapshot), type=AdaptersSnapshot) == snapshot
