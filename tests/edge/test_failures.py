"""What clients see when workers die, hang or are full, and what a client's leaving sets free."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import openai
import pytest

from tests.conftest import Models, read
from tests.running import CHAT, PATIENCE, Running, cpu_seconds, eventually, question, running


def last_event(raw: bytes) -> dict[str, Any]:
    """The data of the last event, which must be whole."""
    assert raw.endswith(b"\n\n")
    *_, last = raw.removesuffix(b"\n\n").split(b"\n\n")
    name, data = last.split(b"\n")
    assert name == b"event: error"
    parsed: dict[str, Any] = json.loads(data.removeprefix(b"data: "))
    return parsed


async def slot_is_free(gateway: Running) -> None:
    """At the gateway and in the worker, within a second."""

    async def free() -> bool:
        return gateway.status().in_flight == 0 and await gateway.in_worker() == 0

    await eventually(free, seconds=1)


async def test_a_death_while_streaming_ends_the_stream_with_one_whole_error_event(
    models: Models,
) -> None:
    async with running(models.group()) as gateway:
        for order in ("die", "half"):
            await gateway.until("ready")
            async with gateway.chat(order, stream=True) as response:
                raw = await response.read()
            assert response.status == 200
            assert raw.count(b"event: error") == 1
            assert last_event(raw)["code"] == "engine_failed"
            assert b'"del' not in raw.replace(b'"delta"', b"")
            await gateway.until("restarting")


async def test_a_death_while_streaming_raises_in_the_official_client(models: Models) -> None:
    async with running(models.group()) as gateway:
        stream = await gateway.openai.chat.completions.create(**question("die", stream=True))
        words = []
        with pytest.raises(openai.APIError, match="broke off"):
            words += [chunk.choices[0].delta.content async for chunk in stream]


async def test_a_death_before_a_whole_answer_is_a_502_that_names_the_weights(
    models: Models,
) -> None:
    async with running(models.group()) as gateway:
        async with gateway.chat("die") as response:
            error = (await response.json())["error"]
        assert (response.status, error["code"]) == (502, "engine_failed")
        assert response.headers["x-stackserve-key"] == "a"
        await gateway.until("restarting")
        async with gateway.chat("hello") as response:
            error = (await response.json())["error"]
        assert (response.status, error["code"]) == (503, "group_not_ready")
        assert int(response.headers["retry-after"]) > 0
        await gateway.until("ready")
        async with gateway.chat("hello") as response:
            assert response.status == 200


async def test_a_death_while_the_client_reads_nothing_ends_its_stream_too(models: Models) -> None:
    async with running(models.group()) as gateway:
        stream = await gateway.begun("flood")
        pid = gateway.status().worker_pid
        assert pid is not None

        async def stalled() -> bool:
            before = cpu_seconds(pid)
            await asyncio.sleep(0.1)
            return cpu_seconds(pid) == before

        await eventually(stalled)
        os.kill(pid, signal.SIGKILL)
        await gateway.until("restarting")
        await gateway.until("ready")
        raw = await asyncio.wait_for(stream.read(), PATIENCE)
        assert last_event(raw)["code"] == "engine_failed"
        await eventually(lambda: gateway.status().in_flight == 0)


async def test_a_full_group_answers_429_and_takes_more_when_one_has_left(models: Models) -> None:
    async with running(models.group(max_in_flight=1)) as gateway:
        response = await gateway.begun("hang")
        with pytest.raises(openai.RateLimitError) as caught:
            await gateway.openai.chat.completions.create(**question("hello"))
        assert caught.value.code == "overloaded"
        assert caught.value.response.headers["retry-after"] == "1"
        assert caught.value.response.headers["x-stackserve-key"] == "a"
        response.close()
        await slot_is_free(gateway)
        async with gateway.chat("hello") as response:
            assert response.status == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_slot(models: Models, stream: bool) -> None:
    async with running(models.group()) as gateway:
        asking = asyncio.create_task(gateway.http.post(CHAT, json=question("hang", stream=stream)))
        await eventually(lambda: gateway.status().in_flight == 1)

        async def works() -> bool:
            return await gateway.in_worker() == 1

        await eventually(works)
        if stream:
            (await asking).close()
        else:
            asking.cancel()
        await slot_is_free(gateway)
        assert 'outcome="disconnected"' in await gateway.text("/metrics")


async def test_one_groups_death_leaves_the_other_alone(models: Models) -> None:
    groups = models.group("one", ("a",), key="base1"), models.group("two", ("b",), key="base2")
    async with running(*groups) as gateway:
        assert len({status.worker_pid for status in gateway.gateway.statuses()}) == 2
        pid = gateway.status("one").worker_pid
        assert pid is not None
        running_stream = await gateway.begun("hang", model="b")
        os.kill(pid, signal.SIGKILL)
        await gateway.until("restarting", "one")
        async with gateway.chat("hello", model="a") as response:
            assert response.status == 503
        async with gateway.chat("hello", model="b") as response:
            assert response.status == 200
        status, ready = await gateway.json("/readyz")
        assert (status, ready["status"]) == (200, "degraded")
        await gateway.until("ready", "one")
        assert (await gateway.json("/readyz"))[1]["status"] == "ready"
        assert gateway.status("two").in_flight == 1
        running_stream.close()


async def test_says_that_it_loads_before_it_is_ready(models: Models) -> None:
    async with running(models.group(start="never"), until="starting") as gateway:
        status, ready = await gateway.json("/readyz")
        assert (status, ready["status"]) == (503, "loading")
        assert (await gateway.json("/livez"))[0] == 200
        async with gateway.chat("hello") as response:
            assert response.status == 503
        async with gateway.chat("hello", model="nobody") as response:
            assert response.status == 404


async def test_a_group_without_a_base_fails_while_the_other_serves(models: Models) -> None:
    broken = models.group("one", ("a",), key="base1")
    lost = broken.base.model_copy(update={"path": "/nowhere"})
    broken = broken.model_copy(update={"base": lost})
    whole = models.group("two", ("b",), key="base2")
    async with running(broken, whole, until=None) as gateway:
        await gateway.until("failed", "one")
        await gateway.until("ready", "two")
        _, ready = await gateway.json("/readyz")
        assert ready["status"] == "degraded"
        assert "base_missing" in ready["groups"][0]["detail"]
        assert ready["groups"][1]["version"] == read(whole).version
        async with gateway.chat("hello", model="base1") as response:
            error = (await response.json())["error"]
        assert (response.status, error["code"]) == (503, "group_not_ready")
        assert "could not be read" in error["message"]
        assert int(response.headers["retry-after"]) >= 3600
