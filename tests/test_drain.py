"""How a server ends: what runs may finish, nothing new is taken, and what is left is cut in order."""

from __future__ import annotations

import asyncio
import os
import signal

import aiohttp

from stackserve.app import Stop, run_until_stopped
from tests.conftest import Models
from tests.running import CHAT, PATIENCE, Running, eventually, question, running


async def stop(gateway: Running, drain_seconds: float) -> None:
    """As SIGTERM does."""
    wish = Stop()
    wish.first.set()
    await run_until_stopped(gateway.gateway, drain_seconds, wish)


async def draining(gateway: Running) -> bool:
    status, ready = await gateway.json("/readyz")
    return (status, ready["status"]) == (503, "draining")


async def test_a_running_stream_finishes_and_nothing_new_is_taken(models: Models) -> None:
    async with running(models.group()) as gateway:
        stream = await gateway.begun("slow end")
        stopping = asyncio.create_task(stop(gateway, drain_seconds=PATIENCE))
        await eventually(lambda: draining(gateway))
        async with gateway.chat("hello") as response:
            error = (await response.json())["error"]
        assert (response.status, error["code"]) == (503, "shutting_down")
        assert int(response.headers["retry-after"]) > 0
        assert (await gateway.json("/livez"))[0] == 200
        assert (await stream.read()).endswith(b"[DONE]\n\n")
        await asyncio.wait_for(stopping, PATIENCE)


async def test_an_idle_server_ends_at_once(models: Models) -> None:
    async with running(models.group()) as gateway:
        await asyncio.wait_for(stop(gateway, drain_seconds=600), 1)


async def test_what_is_left_at_the_deadline_is_cut_with_an_error_event(models: Models) -> None:
    async with aiohttp.ClientSession() as client:
        async with running(models.group()) as gateway:
            body = question("hang", stream=True)
            stream = await client.post(f"{gateway.url}{CHAT}", json=body)
            await stop(gateway, drain_seconds=0.1)
        first, last, nothing = (await stream.read()).split(b"\n\n")
    assert b'"hang"' in first
    assert last.startswith(b"event: error\ndata: {")
    assert nothing == b""


async def test_a_second_signal_ends_the_draining(models: Models) -> None:
    async with running(models.group()) as gateway:
        stream = await gateway.begun("hang")
        ending = asyncio.create_task(run_until_stopped(gateway.gateway, 600, Stop.by_signals()))
        os.kill(os.getpid(), signal.SIGTERM)
        await eventually(lambda: draining(gateway))
        assert not ending.done()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(ending, 1)
        stream.close()
