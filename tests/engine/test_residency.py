"""Residency: adapters come to the device in turn, nobody waits for ever, memory stays within bounds."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackserve.engine.residency import LOOK_AHEAD, REMEMBERED
from stackserve.engine.slot_policy import PolicySettings
from stackserve.engine.tiers import IdentityTaken, Tier
from tests.engine.residency_world import TICK, World

MIB = 1 << 20


def tier_of(world: World, adapter: int) -> Tier | None:
    record = world.residency.get(adapter)
    return record.tier if record else None


def test_a_request_runs_when_its_adapter_has_been_read_and_placed() -> None:
    world = World(slots=2)
    assert not world.send(1)
    world.step()
    assert tier_of(world, 1) is Tier.STAGING
    world.step()
    assert world.waits == [(1, pytest.approx(TICK))]
    assert world.send(1), "the second request finds it on the device"


def test_an_adapter_that_many_wait_for_is_read_once() -> None:
    world = World(slots=2)
    world.host.held.add(1)
    for _ in range(50):
        world.send(1)
        world.step()
    assert world.host.stages == [1]


def test_a_slot_is_taken_from_the_idle_adapter_that_is_worth_least() -> None:
    world = World(slots=2)
    for adapter, requests in ((1, 5), (2, 1)):
        for _ in range(requests):
            world.send(adapter)
        world.step(3)
    world.send(3)
    world.step(3)
    assert world.on_device() == {1, 3}


def test_an_adapter_that_runs_or_is_asked_for_keeps_its_slot_while_another_is_idle() -> None:
    world = World(slots=2)
    world.send(1, length=100)
    world.send(2)
    world.step(3)
    world.send(3)
    world.step(3)
    assert world.on_device() == {1, 3}


def test_the_adapter_with_least_work_left_drains_for_one_that_starves() -> None:
    world = World(slots=2, policy=PolicySettings(starvation_seconds=1.0))
    world.send(1, length=200)
    world.send(2, length=30)
    world.step(2)
    world.send(3)
    for _ in range(100):
        world.send(1, length=30)
        world.send(2, length=30)
        world.step()
    assert ("drained", "a2") in world.events.seen
    waited = [seconds for adapter, seconds in world.waits if adapter == 3]
    assert len(waited) == 1
    assert waited[0] < 1.0 + 30 * TICK + 1.0


def test_an_adapter_stays_for_its_minimum_before_it_drains() -> None:
    policy = PolicySettings(starvation_seconds=0.0, min_residency_seconds=5.0)
    world = World(slots=1, policy=policy)
    world.send(1)
    world.step(2)
    world.send(2)
    for _ in range(40):
        world.send(1, length=2)
        world.step()
    assert world.on_device() == {1}
    for _ in range(20):
        world.send(1, length=2)
        world.step()
    assert any(adapter == 2 for adapter, _ in world.waits)


@settings(max_examples=150, deadline=None)
@given(
    slots=st.integers(1, 4),
    adapters=st.integers(2, 12),
    longest=st.integers(1, 12),
    starvation=st.sampled_from([0.0, 0.5, 2.0]),
    residency=st.sampled_from([0.0, 0.5]),
    data=st.data(),
)
def test_the_wait_is_bounded_whatever_arrives(
    slots: int,
    adapters: int,
    longest: int,
    starvation: float,
    residency: float,
    data: st.DataObject,
) -> None:
    """The bound of `PolicySettings`, and the steps in which a load is noticed and acted on."""
    world = World(slots, PolicySettings(starvation, residency))
    arrivals = st.lists(st.tuples(st.integers(1, adapters), st.integers(1, longest)), max_size=6)
    pattern = data.draw(st.lists(arrivals, min_size=1, max_size=12))
    hot = data.draw(st.sets(st.integers(1, adapters), max_size=adapters))
    for step in range(200):
        for adapter, length in pattern[step % len(pattern)]:
            world.send(adapter, length)
        for adapter in hot:
            world.send(adapter, longest)
        world.step()
    rounds = math.ceil(adapters / slots) + 1
    noticing = 3 * TICK
    bound = starvation + rounds * (residency + longest * TICK + noticing) + adapters * TICK
    assert max((seconds for _, seconds in world.waits), default=0.0) <= bound + 1e-6
    now_waiting = [world.now - since for queue in world.waiting.values() for since, _ in queue]
    assert max(now_waiting, default=0.0) <= bound + 1e-6


def test_a_failed_load_fails_only_the_requests_of_its_adapter() -> None:
    world = World(slots=2)
    world.host.fail[1] = "its files are gone"
    world.send(1)
    world.send(1)
    world.send(2)
    world.step(4)
    assert world.failed == [(1, "its files are gone")]
    assert [adapter for adapter, _ in world.waits] == [2]
    assert world.residency.get(1) is None, "nothing is kept of an adapter that nobody registered"


def test_after_a_failed_load_the_next_request_tries_again() -> None:
    world = World(slots=2)
    world.host.fail[1] = "the disk is gone"
    world.send(1)
    world.step(3)
    del world.host.fail[1]
    world.send(1)
    world.step(3)
    assert [adapter for adapter, _ in world.waits] == [1]


def test_host_memory_stays_within_its_budget() -> None:
    world = World(slots=2, host_bytes=5 * MIB)
    for adapter in range(1, 40):
        world.send(adapter)
        world.step(2)
        assert world.residency.memory.used <= 5 * MIB
    assert len(world.host.staged) == 5
    assert len(list(world.residency)) == 5, "what is forgotten leaves no record"


def test_what_is_asked_for_is_kept_in_host_memory_and_the_least_worth_forgotten() -> None:
    world = World(slots=1, host_bytes=3 * MIB)
    for adapter, requests in ((1, 3), (2, 1), (3, 2)):
        for _ in range(requests):
            world.send(adapter)
        world.step(3)
    world.send(4)
    world.step(3)
    assert tier_of(world, 2) is None
    assert tier_of(world, 1) is Tier.HOST


def test_a_budget_for_less_than_the_slots_hold_stops_nobody() -> None:
    world = World(slots=2, host_bytes=MIB)
    for adapter in range(1, 7):
        world.send(adapter, length=2)
    world.step(60)
    assert sorted(adapter for adapter, _ in world.waits) == [1, 2, 3, 4, 5, 6]


def test_no_more_than_a_few_are_made_ready_ahead_of_their_turn() -> None:
    world = World(slots=2, policy=PolicySettings(starvation_seconds=1e9))
    world.send(101, length=10**6)
    world.send(102, length=10**6)
    world.step(3)
    for adapter in range(1, 60):
        world.send(adapter)
    world.step(100)
    assert len(world.host.staged) == 2 + 2 + LOOK_AHEAD


def test_a_registered_adapter_is_loaded_ahead_into_a_free_slot() -> None:
    world = World(slots=2)
    world.residency.register(1, "a1@digest", 1, world.now, load=True)
    world.step(2)
    assert world.on_device() == {1}
    assert world.send(1)


def test_loading_ahead_stops_where_host_memory_ends() -> None:
    world = World(slots=1, host_bytes=4 * MIB)
    for adapter in range(1, 20):
        world.residency.register(adapter, f"a{adapter}@digest", adapter, world.now, load=True)
    world.step(40)
    assert world.residency.memory.used <= 4 * MIB
    assert len(world.host.staged) >= 3


def test_a_pinned_adapter_comes_at_once_and_stays() -> None:
    world = World(slots=2, policy=PolicySettings(starvation_seconds=0.0, min_residency_seconds=0.0))
    world.residency.register(9, "a9@digest", 9, world.now, load=False)
    world.send(1)
    world.send(2)
    world.step(3)
    world.residency.pin(9, world.now)
    world.step(3)
    assert 9 in world.on_device()
    for round_ in range(30):
        for adapter in (1, 2, 3, 4):
            world.send(adapter, length=1 + round_ % 3)
        world.step()
        assert 9 in world.on_device()
    assert {adapter for adapter, _ in world.waits} == {1, 2, 3, 4}
    world.residency.unpin(9)
    world.send(5)
    world.step(60)
    assert 9 not in world.on_device()


def test_one_slot_is_always_left_for_others() -> None:
    world = World(slots=2)
    for adapter in (1, 2):
        world.residency.register(adapter, f"a{adapter}@digest", adapter, world.now, load=False)
    world.residency.pin(1, world.now)
    with pytest.raises(ValueError, match="one must be left for the others"):
        world.residency.pin(2, world.now)
    world.residency.pin(1, world.now)


def test_what_is_unknown_cannot_be_pinned_or_removed() -> None:
    world = World(slots=2)
    for operation in (world.residency.pin, world.residency.remove):
        with pytest.raises(ValueError, match="no adapter has the id 7"):
            operation(7, world.now)


def test_a_removed_adapter_frees_its_memory_when_its_requests_are_done() -> None:
    world = World(slots=2)
    world.send(1, length=5)
    world.step(3)
    world.send(1, length=2)
    world.residency.remove(1, world.now)
    world.step(2)
    assert 1 in world.on_device(), "what was accepted is served"
    world.step(10)
    assert world.on_device() == set()
    assert world.residency.memory.used == 0
    assert world.host.staged == set()
    assert world.host.slots == {}


def test_a_late_request_for_a_removed_adapter_is_served_and_its_memory_freed_again() -> None:
    world = World(slots=2)
    world.send(1)
    world.step(3)
    world.residency.remove(1, world.now)
    world.step(2)
    world.send(1)
    world.step(6)
    assert len(world.waits) == 2
    assert world.host.staged == set()
    world.step(int(REMEMBERED / TICK) + 2)
    assert world.residency.get(1) is None


def test_an_adapter_removed_while_it_is_read_is_dropped_when_it_comes() -> None:
    world = World(slots=2)
    world.residency.register(1, "a1@digest", 1, world.now, load=True)
    world.host.held.add(1)
    world.step()
    world.residency.remove(1, world.now)
    world.step()
    world.host.held.clear()
    world.step(3)
    assert world.host.staged == set()


def test_an_id_means_one_adapter() -> None:
    world = World(slots=2)
    world.send(1)
    with pytest.raises(IdentityTaken, match="adapter id 1 is a1@digest, not b@other"):
        world.residency.arrived(1, "b@other", 1, world.now)


def test_the_better_priority_gets_the_slot_first() -> None:
    world = World(slots=1)
    world.send(9, length=20)
    world.step(3)
    world.send(1, priority=1)
    world.step()
    world.send(2, priority=0)
    world.step(40)
    assert [adapter for adapter, _ in world.waits] == [9, 2, 1]


def test_what_is_pinned_before_it_is_read_stays_known_though_nobody_asks_any_more() -> None:
    world = World(slots=2)
    world.host.held.add(1)
    world.send(1)
    world.residency.pin(1, world.now)
    world.waiting.pop(1)
    world.residency.dequeued(1)
    world.step(3)
    world.host.held.clear()
    world.step(3)
    assert world.on_device() == {1}
    world.residency.unpin(1)
    world.step()
    assert world.residency.get(1) is not None, "it is in a slot"


def test_who_loses_a_slot_keeps_its_priority_in_the_line() -> None:
    world = World(slots=1, policy=PolicySettings(0.2, 0.0))
    for number in range(40):
        world.send(1, length=3, priority=5)
        if number == 5:
            world.send(2, length=3, priority=0)
        if number == 6:
            world.send(3, length=3, priority=9)
        world.step()
    begun = [adapter for adapter, _ in world.waits]
    after = begun[begun.index(2) :]
    assert next(each for each in after if each != 2) == 1, "it comes back before the one of 9"


def test_an_id_may_be_given_again_when_its_adapter_is_gone() -> None:
    world = World(slots=2)
    world.send(1)
    world.step(3)
    world.residency.remove(1, world.now)
    world.step(2)
    world.residency.register(1, "b@other", 1, world.now, load=True)
    world.step(3)
    record = world.residency.get(1)
    assert record is not None
    assert (record.name, record.tier) == ("b@other", Tier.DEVICE)


def test_what_an_operator_adds_is_read_though_cold_adapters_keep_coming() -> None:
    world = World(slots=2, host_bytes=6 * MIB, policy=PolicySettings(0.5, 0.1))
    for number in range(10):
        for adapter in range(1, 7):
            world.send(10 * number + adapter, length=3)
        world.step()
    world.residency.register(500, "a500@digest", 500, world.now, load=True, displace=True)
    for number in range(10, 20):
        for adapter in range(1, 7):
            world.send(10 * number + adapter, length=3)
        world.step()
    assert ("loaded", "a500") in world.events.seen


def test_a_pinned_adapter_that_nobody_asks_for_starves_nobody_of_the_batch() -> None:
    world = World(slots=3, policy=PolicySettings(0.0, 0.0, adapters_per_batch=1))
    world.residency.register(9, "a9@digest", 9, world.now)
    world.residency.pin(9, world.now)
    world.step(3)
    for _ in range(20):
        world.send(1, length=3)
        world.step()
    assert not [each for each in world.events.seen if each[0] == "drained"]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_is_done_in_whatever_order_keeps_its_books(data: st.DataObject) -> None:
    """`check_integrity` after every step; in the end everything accepted has run or failed."""
    world = World(
        slots=data.draw(st.integers(1, 3)),
        policy=PolicySettings(0.3, 0.1, data.draw(st.sampled_from([None, 1, 2]))),
        host_bytes=data.draw(st.sampled_from([MIB, 4 * MIB, 1 << 40])),
    )
    sent = 0
    for _ in range(data.draw(st.integers(1, 60))):
        adapter = data.draw(st.integers(1, 7))
        match data.draw(
            st.sampled_from(["send", "send", "step", "pin", "unpin", "remove", "fail", "load"])
        ):
            case "send":
                world.send(adapter, data.draw(st.integers(1, 4)))
                sent += 1
            case "step":
                world.step()
            case "fail":
                world.host.fail = {adapter: "broken"}
            case "load":
                world.residency.register(
                    adapter, f"a{adapter}@digest", adapter, world.now, load=True
                )
            case operation if world.residency.get(adapter):
                try:
                    if operation == "unpin":
                        world.residency.unpin(adapter)
                    else:
                        getattr(world.residency, operation)(adapter, world.now)
                except ValueError:
                    assert operation == "pin"
            case _:
                pass
    lost = len(world.waits)
    world.step(300)
    assert not world.waiting, f"{world.waiting} of {sent} sent still wait; {lost} had begun before"
    assert not world.running
