"""What a worker answers about an adapter, as its gateway understands it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from aiohttp import web

from stackserve.protocol import ADAPTERS_PATH, AdapterSpec
from stackserve.workers import adapters
from stackserve.workers.adapters import AdapterNotTaken, delete_adapter, put_adapter

SPEC = AdapterSpec("a", "a@1", "/a", 2.0, pinned=True)


class Worker:
    """Answers as told, and remembers what was asked."""

    def __init__(self) -> None:
        self.answer = web.Response(status=204)
        self.silent = False
        self.asked: list[tuple[str, str, str]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.path, await request.text()))
        if self.silent and request.method == "PUT":
            await asyncio.Event().wait()
        return self.answer


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest_asyncio.fixture
async def session(worker: Worker, tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", worker.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.01)  # a handler that waits is not waited for
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "w.sock")).start()
    connector = aiohttp.UnixConnector(str(tmp_path / "w.sock"))
    async with aiohttp.ClientSession("http://worker", connector=connector) as session:
        yield session
    await runner.cleanup()


async def test_a_spec_is_put_as_it_is(worker: Worker, session: aiohttp.ClientSession) -> None:
    await put_adapter(session, SPEC)
    ((method, path, body),) = worker.asked
    assert (method, path) == ("PUT", ADAPTERS_PATH)
    assert msgspec.json.decode(body, type=AdapterSpec) == SPEC


async def test_a_refusal_is_raised_with_the_workers_words(
    worker: Worker, session: aiohttp.ClientSession
) -> None:
    error = {"code": "adapter_load_failed", "message": "no weights"}
    worker.answer = web.json_response({"error": error}, status=422)
    with pytest.raises(AdapterNotTaken, match=r"^no weights$"):
        await put_adapter(session, SPEC)


async def test_an_answer_that_makes_no_sense_is_a_refusal_too(
    worker: Worker, session: aiohttp.ClientSession
) -> None:
    worker.answer = web.Response(status=500, text="Internal Server Error")
    with pytest.raises(AdapterNotTaken, match="the worker answers 500"):
        await put_adapter(session, SPEC)


async def test_one_that_is_not_loaded_in_time_is_forgotten_and_refused(
    worker: Worker, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "LOAD_SECONDS", 0.05)
    worker.silent = True
    with pytest.raises(AdapterNotTaken, match="not loaded within"):
        await put_adapter(session, SPEC)
    assert [method for method, *_ in worker.asked] == ["PUT", "DELETE"]


@pytest.mark.parametrize("status", [204, 404])
async def test_one_is_forgotten_whether_it_was_known_or_not(
    worker: Worker, session: aiohttp.ClientSession, status: int
) -> None:
    worker.answer = web.Response(status=status)
    await delete_adapter(session, SPEC.worker_model)
    ((method, path, _),) = worker.asked
    assert (method, path) == ("DELETE", f"{ADAPTERS_PATH}/a@1")


async def test_a_worker_that_is_gone_is_no_refusal(tmp_path: Path) -> None:
    connector = aiohttp.UnixConnector(str(tmp_path / "nobody"))
    async with aiohttp.ClientSession("http://worker", connector=connector) as session:
        with pytest.raises(aiohttp.ClientError):
            await put_adapter(session, SPEC)
