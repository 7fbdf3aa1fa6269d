"""Residency: adapters that an operator registers, pins and removes, and what their ids mean."""

from __future__ import annotations

import pytest

from stackserve.engine.residency import REMEMBERED
from stackserve.engine.slot_policy import PolicySettings
from stackserve.engine.tiers import IdentityTaken, Tier
from tests.engine.residency_world import TICK, World


def test_a_registered_adapter_is_loaded_ahead_into_a_free_slot() -> None:
    world = World(slots=2)
    world.residency.register(1, "a1@digest", 1, world.now, load=True)
    world.step(2)
    assert world.on_device() == {1}
    assert world.send(1)


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


def test_a_pinned_adapter_that_nobody_asks_for_starves_nobody_of_the_batch() -> None:
    world = World(slots=3, policy=PolicySettings(0.0, 0.0, adapters_per_batch=1))
    world.residency.register(9, "a9@digest", 9, world.now)
    world.residency.pin(9, world.now)
    world.step(3)
    for _ in range(20):
        world.send(1, length=3)
        world.step()
    assert not [each for each in world.events.seen if each[0] == "drained"]
