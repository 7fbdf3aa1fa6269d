"""Residency: adapters come to the device in turn, nobody waits for ever, the books are kept."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackserve.engine.slot_policy import PolicySettings
from stackserve.engine.tiers import Tier
from tests.engine.residency_world import TICK, World, tier_of

MIB = 1 << 20


def test_a_request_runs_when_its_adapter_has_been_read_and_placed() -> None:
    world = World(slots=2)
    assert not world.send(1)
    world.step()
    assert tier_of(world, 1) is Tier.STAGING
    world.step()
    assert world.waits == [(1, pytest.approx(TICK))]
    assert world.send(1), "the second request finds it on the device"


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


def test_the_better_priority_gets_the_slot_first() -> None:
    world = World(slots=1)
    world.send(9, length=20)
    world.step(3)
    world.send(1, priority=1)
    world.step()
    world.send(2, priority=0)
    world.step(40)
    assert [adapter for adapter, _ in world.waits] == [9, 2, 1]


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
