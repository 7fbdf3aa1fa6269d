"""A worker without an engine, for tests of everything around one: `python -m stackserve.workers.fake`.

It keeps the whole of `stackserve.protocol` and answers chat completions with the words of the last
message, an event each; as vLLM, it stops working when the client goes. Some first words are orders:

    slow       a third of a second between words
    hang       the first word, then silence
    flood      the first word, then more events than anybody reads
    die        the first word, then the process ends without a goodbye
    half       the first word, then half an event, then the process ends
    torn       half an event, and an end as if all were well
    error      the first word, then vLLM's error event, then [DONE]
    refuse     a 400 in OpenAI's shape
    whoami     the name by which the worker knows the model
    body       the request body as it arrived
    late       its model is looked up 30 ms after its arrival, as by a busy engine

`options.fake_start` of the spec can make the start go wrong, see `_obey_at_start`, and the answers to
`ADAPTERS_PATH`, see `_answer_adapters` and `FakeAdapters`; `{"probe": key}` has that adapter fail at every
completion, and `{"torn_probe": key}` does too, after a first answer that is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from stackserve.lifeline import Events, take_spec
from stackserve.protocol import (
    ADAPTERS_PATH,
    AdapterFacts,
    AdapterFailed,
    AdaptersSnapshot,
    KeyNumbers,
    Phase,
    Ready,
    ResidencyFacts,
    WorkerSpec,
)
from stackserve.workers.fake_adapters import FakeAdapters, no_such_model

COMMAND = (sys.executable, "-m", "stackserve.workers.fake")

TASKS = ("generate",)

SLOTS = 2
ADAPTER_BYTES = 1000
LATE_SECONDS = 0.03


class FakeEngine:
    """Counts what is asked of it; a word is a token. The first `SLOTS` adapters are always on the device,
    the others in host memory.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self.running: dict[int, str] = {}
        self.adapters = FakeAdapters(spec)
        self.has_torn = False
        self._base = str(spec.options.get("served_model_name", "base"))
        self._keys = {key: KeyNumbers(key) for key in (self._base, *self.adapters.served_keys())}

    @contextlib.contextmanager
    def request(self, worker_model: str, words: list[str]) -> Iterator[KeyNumbers]:
        """One that runs; it counts as aborted when it does not come to its end."""
        key = worker_model.rpartition("@")[0] or worker_model
        numbers = self._keys.setdefault(key, KeyNumbers(key))
        numbers.arrived += 1
        numbers.prompt_tokens += len(words)
        if key in self.adapters.served_keys()[:SLOTS]:
            numbers.hits += 1
        elif key in self.adapters.served_keys():
            numbers.deferred += 1
        outcome = "abort"
        self.running[id(words)] = key
        try:
            yield numbers
            outcome = "stop"
        finally:
            del self.running[id(words)]
            numbers.finished[outcome] = numbers.finished.get(outcome, 0) + 1

    def snapshot(self) -> AdaptersSnapshot:
        running = list(self.running.values())
        adapters = tuple(
            AdapterFacts(
                key,
                "device" if number < SLOTS else "host",
                ADAPTER_BYTES,
                running=running.count(key),
            )
            for number, key in enumerate(self.adapters.served_keys())
        )
        host_bytes = ADAPTER_BYTES * len(adapters)
        residency = ResidencyFacts(
            slots=SLOTS,
            host_bytes=host_bytes,
            host_limit=2 * host_bytes,
            adapters=adapters,
            base_key=self._base,
            base_running=running.count(self._base),
        )
        return AdaptersSnapshot(tuple(self._keys.values()), residency=residency)


def build_fake_app(spec: WorkerSpec) -> Starlette:
    """The HTTP side. `GET /running` tells how many streams are open."""
    engine, order = FakeEngine(spec), spec.options.get("fake_start")

    async def count(_: Request) -> Response:
        return JSONResponse(len(engine.running))

    async def chat(request: Request) -> Response:
        raw = await request.body()
        body: dict[str, Any] = json.loads(raw)
        words = str(body["messages"][-1]["content"]).split()
        first = words[0] if words else ""
        if first == "late":
            await asyncio.sleep(LATE_SECONDS)
        if not engine.adapters.knows(body["model"]):
            return no_such_model(body["model"])
        if first == "refuse":
            error = {"message": "refused", "type": "BadRequestError", "param": None, "code": 400}
            return JSONResponse({"error": error}, 400)
        if first == "whoami":
            words = [body["model"]]
        if first == "body":
            words = [raw.decode()]
        stream = _events(body["model"], words, engine)
        if body.get("stream"):
            return StreamingResponse(stream, media_type="text/event-stream")
        await _exhaust(stream, request)
        return JSONResponse(_completion(body["model"], " ".join(words)))

    return Starlette(
        routes=[
            Route("/running", count),
            Route("/v1/completions", partial(_complete, order, engine), methods=["POST"]),
            Route(ADAPTERS_PATH, partial(_answer_adapters, order, engine)),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            *engine.adapters.routes(),
        ]
    )


async def _complete(order: Any, engine: FakeEngine, request: Request) -> Response:
    body: dict[str, Any] = json.loads(await request.body())
    model, prompt = body["model"], str(body["prompt"])
    if not engine.adapters.knows(model):
        return no_such_model(model)
    key = model.partition("@")[0]
    if isinstance(order, dict) and key in (order.get("probe"), order.get("torn_probe")):
        if "torn_probe" in order and not engine.has_torn:
            engine.has_torn = True
            return Response(b"{", headers={"content-length": "9"})
        error = {"message": "it answers NaN", "type": "server_error", "param": None, "code": 500}
        return JSONResponse({"error": error}, 500)
    words = [model] if prompt == "whoami" else prompt.split()
    await _exhaust(_events(model, words, engine), request)
    choice = {"index": 0, "text": " ".join(words), "finish_reason": "length"}
    answer = {"id": "fake", "object": "text_completion", "model": model, "choices": [choice]}
    return JSONResponse(answer)


async def _answer_adapters(order: Any, engine: FakeEngine, _: Request) -> Response:
    match order:
        case {"adapters": "silence"}:
            await asyncio.Event().wait()
        case {"adapters": "nonsense"}:
            return Response(b"{")
        case {"adapters": "none"}:
            return Response(status_code=404)
    return Response(msgspec.json.encode(engine.snapshot()), media_type="application/json")


async def _exhaust(stream: AsyncIterator[bytes], request: Request) -> None:
    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    async def exhaust() -> None:
        async for _ in stream:
            pass

    tasks = (asyncio.create_task(gone()), asyncio.create_task(exhaust()))
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


async def _events(model: str, words: list[str], engine: FakeEngine) -> AsyncIterator[bytes]:
    with engine.request(model, words) as numbers:
        if words[:1] == ["torn"]:
            yield b'data: {"choices": [{"index": 0, "del'
            return
        for number, word in enumerate(words):
            yield _event({"model": model, "choices": [{"index": 0, "delta": {"content": word}}]})
            if number == 0:
                async for last in _obey(word):
                    yield last
            numbers.generated_tokens += 1
            await asyncio.sleep(0.3 if words[0] == "slow" else 0)
        yield b"data: [DONE]\n\n"


async def _obey(order: str) -> AsyncIterator[bytes]:
    if order == "hang":
        await asyncio.Event().wait()
    while order == "flood":
        yield _event({"choices": [{"index": 0, "delta": {"content": "x" * 65536}}]})
    if order == "half":
        yield b'data: {"choices": [{"index": 0, "del'
        await asyncio.sleep(0.05)
    if order in ("die", "half"):
        await asyncio.sleep(0.05)
        os._exit(1)
    if order == "error":
        yield _event({"error": {"message": "engine died", "type": "server_error", "code": 500}})


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def _completion(model: str, text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "fake", "object": "chat.completion", "model": model, "choices": [choice]}


def main() -> None:
    """Serve until the gateway ends or says SIGTERM."""
    spec = take_spec()
    events = Events(spec.events_fd)
    _obey_at_start(spec.options.get("fake_start"), events)
    events.send(Phase("loading adapters", 0, len(spec.adapters)))

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # die of SIGTERM at once, unless it is ignored

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            events.send(Ready(TASKS, 1024, "a fake"))

    config = uvicorn.Config(
        build_fake_app(spec), uds=spec.socket, log_level="warning", timeout_keep_alive=3600
    )
    asyncio.run(Server(config).serve())


def _obey_at_start(order: Any, events: Events) -> None:
    match order:
        case "bad options":
            sys.stderr.write("engine options: error: unrecognized arguments: --nonsense\n")
            sys.exit(2)
        case "crash":
            sys.stderr.write("ValueError: no room for the KV cache\n")
            sys.exit(1)
        case "never":
            threading.Event().wait()
        case "deaf":  # as is its child
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            subprocess.Popen(("sleep", "600"))
        case "babble":
            events.send({"type": "Nonsense"})  # type: ignore[arg-type]
        case {"refuses": str(key)}:
            events.send(AdapterFailed(key, "RuntimeError: no"))


if __name__ == "__main__":
    main()
