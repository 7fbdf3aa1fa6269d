"""Adapters come, go and are replaced while a real engine serves: nothing stops, nothing is mixed up."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import openai
import pytest
import pytest_asyncio

from stackserve.demo.behaviours import BEHAVIOURS
from stackserve.protocol import ADAPTERS_PATH
from tests.engine.server import Server, running_server
from tests.running import eventually

KEYS = [each.key for each in BEHAVIOURS]
FOLDERS = {each.key: each.adapter for each in BEHAVIOURS}
FILE = "lively.yaml"
PATIENCE = 60.0
QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def lively(demo_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The demo's four adapters in two slots, with host memory for about two more."""
    folder = tmp_path_factory.mktemp("lively")
    file = folder / FILE
    write_file(file, {key: f"demo:{key}" for key in KEYS})
    with running_server(folder / "run", "serve", str(file), "--port", "0") as server:
        server.wait_ready()
        yield server


def write_file(file: Path, members: dict[str, str]) -> None:
    """A configuration with these paths by key."""
    group = {
        "name": "lively",
        "base": {"path": "demo:base"},
        "members": [{"key": key, "path": path} for key, path in members.items()],
        "engine": {
            "max_model_len": 1024,
            "max_rank": 16,
            "adapter_slots": 2,
            "enforce_eager": True,
            "adapter_memory_gib": 0.008,
            "starvation_seconds": 0.5,
            "min_residency_seconds": 0.1,
        },
    }
    file.write_text(json.dumps({"groups": [group]}))


async def update(lively: Server, members: dict[str, str]) -> dict[str, Any]:
    """Rewrite the server's file and send SIGHUP; the group when it has another version and says so."""

    async def group() -> dict[str, Any]:
        status = await asyncio.to_thread(lively.status)
        found: dict[str, Any] = status["groups"][0]
        return found

    before = (await group())["version"]

    async def is_another() -> bool:
        now = await group()
        return now["version"] != before and "served" in str(now["update"])

    write_file(lively.folder.parent / FILE, members)
    lively.process.send_signal(signal.SIGHUP)
    await eventually(is_another, PATIENCE)
    return await group()


class Worker:
    """The engine worker, spoken to as the gateway does, on its socket."""

    def __init__(self, socket: Path) -> None:
        self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)))
        self.openai = openai.AsyncOpenAI(
            base_url="http://worker/v1",
            api_key="unused",
            max_retries=0,
            timeout=120,
            http_client=httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(socket))),
        )

    async def close(self) -> None:
        await self._session.close()
        await self.openai.close()

    async def add(self, name: str, folder: Path, **more: Any) -> tuple[int, Any]:
        """The status and, for a refusal, the error."""
        key = name.partition("@")[0]
        spec = {"key": key, "worker_model": name, "folder": str(folder), **more}
        async with self._session.put(f"http://worker{ADAPTERS_PATH}", json=spec) as answer:
            return answer.status, None if answer.status == 204 else (await answer.json())["error"]

    async def remove(self, name: str) -> int:
        async with self._session.delete(f"http://worker{ADAPTERS_PATH}/{name}") as answer:
            return answer.status

    async def tiers(self) -> dict[str, list[dict[str, Any]]]:
        """What is known of each key's adapters."""
        async with self._session.get(f"http://worker{ADAPTERS_PATH}") as answer:
            facts = (await answer.json())["residency"]["adapters"]
        return {
            key: [each for each in facts if each["key"] == key] for key in {f["key"] for f in facts}
        }

    async def say(self, model: str, max_tokens: int = 24) -> str:
        return await say(self.openai, model, max_tokens)


@pytest_asyncio.fixture
async def worker(lively: Server) -> AsyncIterator[Worker]:
    (socket,) = lively.sockets()
    worker = Worker(socket)
    yield worker
    await worker.close()


@pytest_asyncio.fixture
async def client(lively: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client of the gateway."""
    async with lively.client() as client:
        yield client


async def say(client: openai.AsyncOpenAI, model: str, max_tokens: int = 24) -> str:
    answer = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=max_tokens,
        temperature=0,
    )
    return answer.choices[0].message.content or ""


async def test_four_adapters_share_two_slots_and_each_answers_as_it_does_alone(
    client: openai.AsyncOpenAI,
) -> None:
    alone = {key: await say(client, key) for key in ("base", *KEYS)}
    assert len(set(alone.values())) == len(alone)
    models = [*alone] * 6
    answers = await asyncio.gather(*(say(client, model) for model in models))
    assert dict.fromkeys(models) == dict.fromkeys(alone)
    assert [alone[model] for model in models] == list(answers)


async def test_an_adapter_is_added_used_and_removed_without_a_restart(
    lively: Server, worker: Worker, client: openai.AsyncOpenAI, tmp_path: Path
) -> None:
    pid = lively.worker_pid()
    copy = shutil.copytree(FOLDERS["pirate"], tmp_path / "late")
    assert await worker.add("late@1", copy) == (204, None)
    assert await worker.say("late@1") == await say(client, "pirate")
    assert await worker.remove("late@1") == 204
    with pytest.raises(openai.NotFoundError):
        await worker.say("late@1")
    assert "late" not in await worker.tiers()
    assert await worker.remove("late@1") == 404
    assert lively.worker_pid() == pid


async def test_running_requests_end_on_the_old_weights_and_new_ones_start_on_the_new(
    worker: Worker, client: openai.AsyncOpenAI
) -> None:
    assert await worker.add("swap@1", FOLDERS["pirate"]) == (204, None)
    options: dict[str, Any] = {
        "prompt": "Once upon a time",
        "max_tokens": 120,
        "temperature": 0,
        "extra_body": {"ignore_eos": True},
    }
    whole = (await worker.openai.completions.create(model="swap@1", **options)).choices[0].text
    events = await worker.openai.completions.create(model="swap@1", stream=True, **options)
    pieces = [(await anext(aiter(events))).choices[0].text]
    assert await worker.add("swap@2", FOLDERS["terse"]) == (204, None)
    assert await worker.remove("swap@1") == 204
    assert await worker.say("swap@2") == await say(client, "terse"), "no block of the old"
    with pytest.raises(openai.NotFoundError):
        await worker.say("swap@1")
    async for event in events:
        pieces += [each.text for each in event.choices]
    assert "".join(pieces) == whole
    assert len((await worker.tiers())["swap"]) == 1, "the old weights are gone"
    await worker.remove("swap@2")


async def test_a_pinned_adapter_keeps_its_slot_and_one_is_left_for_the_others(
    worker: Worker, client: openai.AsyncOpenAI
) -> None:
    assert await worker.add("held@1", FOLDERS["json"], pinned=True) == (204, None)
    for _ in range(2):
        await asyncio.gather(*(say(client, key, 4) for key in KEYS))
    ((facts),) = (await worker.tiers())["held"]
    assert (facts["tier"], facts["pinned"]) == ("device", True)
    status, error = await worker.add("held@2", FOLDERS["json"], pinned=True)
    assert status == 422
    assert "one must be left for the others" in error["message"]
    await worker.remove("held@1")


async def test_an_adapter_whose_files_are_gone_fails_its_own_requests_and_no_others(
    lively: Server, worker: Worker, client: openai.AsyncOpenAI, tmp_path: Path
) -> None:
    pid = lively.worker_pid()
    copy = shutil.copytree(FOLDERS["terse"], tmp_path / "ghost")
    assert await worker.add("ghost@1", copy) == (204, None)
    before = await worker.say("ghost@1")
    shutil.move(copy, tmp_path / "away")
    while any(each["tier"] != "disk" for each in (await worker.tiers()).get("ghost", ())):
        await asyncio.gather(*(say(client, key, 4) for key in KEYS))
    answers = await asyncio.gather(
        *(worker.say("ghost@1") for _ in range(3)),
        *(say(client, key) for key in KEYS),
        return_exceptions=True,
    )
    for failure in answers[:3]:
        assert isinstance(failure, openai.APIStatusError)
        assert failure.status_code == 503
        assert "(adapter_load_failed)" in failure.message
        assert str(tmp_path) not in failure.message
    assert all(isinstance(each, str) for each in answers[3:])
    shutil.move(tmp_path / "away", copy)
    assert await worker.say("ghost@1") == before, "it is read again when its files are back"
    assert lively.worker_pid() == pid
    await worker.remove("ghost@1")


@pytest.mark.parametrize("damage", ["nothing there", "no weights", "half the weights"])
async def test_what_cannot_be_loaded_is_not_added_and_the_engine_lives(
    worker: Worker, client: openai.AsyncOpenAI, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "broken"
    if damage != "nothing there":
        shutil.copytree(FOLDERS["pirate"], folder)
        weights = folder / "adapter_model.safetensors"
        data = weights.read_bytes()
        weights.unlink()
        if damage == "half the weights":
            weights.write_bytes(data[: len(data) // 2])
    status, error = await worker.add("broken@1", folder)
    assert (status, error["code"]) == (422, "adapter_load_failed")
    assert str(tmp_path) not in error["message"]
    with pytest.raises(openai.NotFoundError):
        await worker.say("broken@1")
    assert "broken" not in await worker.tiers()
    assert await say(client, "pirate", 4)


async def test_the_gateway_tells_where_adapters_are_and_what_was_loaded(lively: Server) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{lively.url}/metrics") as answer:
        text = await answer.text()
    assert "vllm:lora_requests_info{" in text
    assert 'group="lively"' in text


async def test_sighup_replaces_adds_and_removes_members_while_streams_and_requests_run(
    lively: Server, client: openai.AsyncOpenAI, worker: Worker
) -> None:
    pid = lively.worker_pid()
    pirate, terse, emoji = [await say(client, key) for key in ("pirate", "terse", "emoji")]
    options: dict[str, Any] = {
        "prompt": "Once upon a time",
        "max_tokens": 300,
        "temperature": 0,
        "extra_body": {"ignore_eos": True},
    }
    whole = (await client.completions.create(model="pirate", **options)).choices[0].text
    events = await client.completions.create(model="pirate", stream=True, **options)
    pieces = [(await anext(aiter(events))).choices[0].text]
    over = asyncio.Event()

    async def keep_asking(key: str) -> set[str]:
        answers = set()
        while not over.is_set():
            answers.add(await say(client, key, 8))
        return answers

    asking = [asyncio.create_task(keep_asking(key)) for key in ("pirate", "emoji", "base")]
    changed = {"pirate": "demo:terse", "emoji": "demo:emoji", "late": "demo:pirate"}
    now = await update(lively, changed)
    assert (now["update"], now["served"]) == ("1 added, 1 replaced, 2 removed; 4 served", 4)
    assert await say(client, "pirate") == terse
    assert await say(client, "late") == pirate
    assert await say(client, "emoji") == emoji
    for key in ("json", "terse"):
        with pytest.raises(openai.NotFoundError):
            await say(client, key)
    over.set()
    of_pirate, of_emoji, of_base = await asyncio.gather(*asking)
    assert (len(of_emoji), len(of_base)) == (1, 1)
    assert len(of_pirate) <= 2, "the old weights' answer and the new ones'"
    async for event in events:
        pieces += [each.text for each in event.choices]
    assert "".join(pieces) == whole
    assert lively.worker_pid() == pid

    now = await update(lively, {key: f"demo:{key}" for key in KEYS})
    assert now["served"] == 1 + len(KEYS)
    assert await say(client, "pirate") == pirate

    async def only_the_new_are_left() -> bool:
        tiers = await worker.tiers()
        return "late" not in tiers and all(len(versions) == 1 for versions in tiers.values())

    await eventually(only_the_new_are_left, PATIENCE)
