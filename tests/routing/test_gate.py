"""The gate: shut with a reason, full at its limit, and its count right however a request ends."""

from __future__ import annotations

import asyncio
from typing import cast

import aiohttp
import pytest

from stackserve.errors import GroupNotReady, Overloaded
from stackserve.routing.gate import Endpoint, Gate

ENDPOINT = Endpoint(cast("aiohttp.ClientSession", None), frozenset({"generate"}))


@pytest.fixture
def gate() -> Gate:
    gate = Gate("g", 2)
    gate.open(ENDPOINT)
    return gate


def test_a_new_gate_is_shut_because_the_group_starts() -> None:
    with pytest.raises(GroupNotReady, match="group g does not answer now: it is starting"):
        Gate("g", 1).enter("a@1").__enter__()


def test_a_shut_gate_gives_its_reason_and_a_time_to_come_back(gate: Gate) -> None:
    gate.shut("its engine died")
    with pytest.raises(GroupNotReady, match="its engine died") as caught:
        gate.enter("a@1").__enter__()
    assert caught.value.retry_after > 0
    assert gate.inside == 0


def test_lets_in_as_many_as_its_limit(gate: Gate) -> None:
    with gate.enter("a@1") as endpoint, gate.enter("a@1"):
        assert endpoint is ENDPOINT
        with pytest.raises(Overloaded, match=r"2 requests \(max_in_flight\)"):
            gate.enter("a@1").__enter__()
        assert gate.inside == 2
    with gate.enter("a@1"):
        assert gate.inside == 1


def test_counts_out_after_an_exception(gate: Gate) -> None:
    with pytest.raises(RuntimeError), gate.enter("a@1"):
        raise RuntimeError
    assert gate.inside == 0


async def test_counts_out_after_a_cancellation(gate: Gate) -> None:
    async def request() -> None:
        with gate.enter("a@1"):
            await asyncio.Event().wait()

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    assert gate.inside == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert gate.inside == 0


def test_shutting_does_not_forget_who_is_inside(gate: Gate) -> None:
    with gate.enter("a@1"):
        gate.shut("it drains")
        assert gate.inside == 1
    assert gate.inside == 0


async def test_is_empty_when_the_last_one_leaves(gate: Gate) -> None:
    await gate.empty()
    with gate.enter("a@1"):
        with gate.enter("a@1"):
            waiting = asyncio.create_task(gate.empty())
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 1)


async def test_a_name_is_used_until_the_last_request_with_it_has_left(gate: Gate) -> None:
    assert not gate.uses("a@1")
    with gate.enter("a@1"), gate.enter("a@2"):
        assert gate.uses("a@1")
        assert not gate.uses("b@1")
        waiting = asyncio.create_task(gate.unused("a@1"))
        await gate.unused("b@1")
        await asyncio.sleep(0)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 1)
    assert not gate.uses("a@1")


async def test_a_request_that_never_got_in_uses_no_name(gate: Gate) -> None:
    gate.shut("it drains")
    with pytest.raises(GroupNotReady):
        gate.enter("a@1").__enter__()
    assert not gate.uses("a@1")


async def test_all_who_wait_for_a_name_hear_that_it_is_unused(gate: Gate) -> None:
    with gate.enter("a@1"):
        waiting = [asyncio.create_task(gate.unused("a@1")) for _ in range(2)]
        await asyncio.sleep(0)
        waiting[0].cancel()
    await asyncio.wait_for(waiting[1], 1)
