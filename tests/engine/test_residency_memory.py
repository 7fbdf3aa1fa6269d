"""Residency: what is read into host memory, how much of it there may be, and what cannot be read."""

from __future__ import annotations

from stackserve.engine.residency import LOOK_AHEAD
from stackserve.engine.slot_policy import PolicySettings
from stackserve.engine.tiers import Tier
from tests.engine.residency_world import World, tier_of

MIB = 1 << 20


def test_an_adapter_that_many_wait_for_is_read_once() -> None:
    world = World(slots=2)
    world.host.held.add(1)
    for _ in range(50):
        world.send(1)
        world.step()
    assert world.host.stages == [1]


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


def test_loading_ahead_stops_where_host_memory_ends() -> None:
    world = World(slots=1, host_bytes=4 * MIB)
    for adapter in range(1, 20):
        world.residency.register(adapter, f"a{adapter}@digest", adapter, world.now, load=True)
    world.step(40)
    assert world.residency.memory.used <= 4 * MIB
    assert len(world.host.staged) >= 3


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
