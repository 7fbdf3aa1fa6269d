"""When an engine dies, and when the server is told to stop: nobody is left waiting, nothing is left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.engine.server import (
    STOP_SECONDS,
    Server,
    descendants,
    is_alive,
    running_server,
    shared_memory,
    wait_until,
)

pytestmark = pytest.mark.usefixtures("demo_base")


@pytest.fixture(scope="module")
def fragile(before: set[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that the tests of this file kill, in their order."""
    folder = tmp_path_factory.mktemp("fragile")
    group = {
        "name": "fragile",
        "base": {"path": "demo:base"},
        "members": [{"key": "terse", "path": "demo:terse"}],
        "engine": {"max_model_len": 1024},
    }
    file = folder / "fragile.yaml"
    file.write_text(json.dumps({"groups": [group]}))
    with running_server(folder / "run", "serve", str(file), "--port", "0") as server:
        server.wait_ready()
        yield server


async def long_stream(client: openai.AsyncOpenAI, tokens: int) -> Any:
    """A stream that has begun and has `tokens` tokens to go."""
    events = await client.completions.create(
        model="terse",
        prompt="Count: 1, 2,",
        max_tokens=tokens,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    await anext(aiter(events))
    return events


async def read_to_its_end(events: Any) -> list[str | None]:
    """The finish reason of each event."""
    return [event.choices[0].finish_reason async for event in events]


def is_engine_core(pid: int) -> bool:
    return b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_a_dead_engine_ends_its_streams_with_an_error_and_comes_back_by_itself(
    fragile: Server,
) -> None:
    worker = fragile.worker_pid()
    assert worker is not None
    engine = descendants(worker)
    async with fragile.client() as client:
        events = await long_stream(client, 900)
        os.kill(next(filter(is_engine_core, engine)), signal.SIGKILL)
        with pytest.raises(openai.APIError):
            await asyncio.wait_for(read_to_its_end(events), 10)
        wait_until(lambda: fragile.worker_pid() != worker, 15)
        assert fragile.status()["status"] in ("down", "degraded")
        with pytest.raises(openai.APIStatusError) as refused:
            await client.completions.create(model="base", prompt="1, 2,", max_tokens=4)
        assert refused.value.status_code == 503
        assert "retry-after" in refused.value.response.headers
        fragile.wait_ready(unlike_pid=worker)
        assert not [pid for pid in (worker, *engine) if is_alive(pid)]
        answer = await client.completions.create(model="terse", prompt="1, 2,", max_tokens=4)
    assert answer.choices[0].finish_reason == "length"


async def test_sigterm_lets_a_running_stream_finish_and_leaves_nothing(
    fragile: Server, before: set[str]
) -> None:
    everything = [fragile.process.pid, *descendants(fragile.process.pid)]
    assert len(everything) >= 4  # gateway, worker, engine core, model worker
    async with fragile.client() as client:
        events = await long_stream(client, 60)
        fragile.process.send_signal(signal.SIGTERM)
        reasons = await read_to_its_end(events)
    assert reasons[-1] == "length"
    assert fragile.process.wait(STOP_SECONDS) == 0
    assert not [pid for pid in everything if is_alive(pid)]
    assert not list(fragile.scratch.iterdir())
    assert shared_memory() <= before
