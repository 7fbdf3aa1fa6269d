"""A worker without an engine, for tests of everything around one: `python -m stackserve.workers.fake`.

It keeps the whole of `stackserve.protocol` and answers chat completions with the words of the last
message, an event each. Some first words are orders:

    slow       a second between words
    hang       the first word, then silence
    die        the first word, then the process ends without a goodbye
    half       the first word, then half an event, then the process ends
    error      the first word, then vLLM's error event, then [DONE]
    refuse     a 400 in OpenAI's shape
    whoami     the name by which the worker knows the model
    body       the request body as it arrived
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from stackserve.lifeline import Events, take_spec
from stackserve.protocol import AdapterFailed, Phase, Ready

TASKS = ("generate",)


def build_fake_app() -> FastAPI:
    """The HTTP side. `GET /running` tells how many streams are open."""
    app = FastAPI()
    running: set[int] = set()

    @app.get("/running")
    async def count() -> int:
        return len(running)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        raw = await request.body()
        body: dict[str, Any] = json.loads(raw)
        words = str(body["messages"][-1]["content"]).split()
        order = words[0] if words else ""
        if order == "refuse":
            error = {"message": "refused", "type": "BadRequestError", "param": None, "code": 400}
            return JSONResponse({"error": error}, 400)
        if order == "whoami":
            words = [body["model"]]
        if order == "body":
            words = [raw.decode()]
        stream = _events(body["model"], words, running)
        if body.get("stream"):
            return StreamingResponse(stream, media_type="text/event-stream")
        async for _ in stream:
            pass
        return JSONResponse(_completion(body["model"], " ".join(words)))

    return app


async def _events(model: str, words: list[str], running: set[int]) -> AsyncIterator[bytes]:
    ticket = id(words)
    running.add(ticket)
    try:
        for number, word in enumerate(words):
            yield _event({"model": model, "choices": [{"index": 0, "delta": {"content": word}}]})
            if number == 0:
                async for last in _obey(word):
                    yield last
            await asyncio.sleep(1 if words[0] == "slow" else 0)
        yield b"data: [DONE]\n\n"
    finally:
        running.discard(ticket)


async def _obey(order: str) -> AsyncIterator[bytes]:
    if order == "hang":
        await asyncio.Event().wait()
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
    """Serve until the gateway ends; `options.fake_start` of the spec can make the start go wrong."""
    spec = take_spec()
    events = Events(spec.events_fd)
    match spec.options.get("fake_start"):
        case "bad options":
            sys.stderr.write("engine options: error: unrecognized arguments: --nonsense\n")
            sys.exit(2)
        case "crash":
            sys.stderr.write("ValueError: no room for the KV cache\n")
            sys.exit(1)
        case "never":
            threading.Event().wait()
        case {"refuses": str(key)}:
            events.send(AdapterFailed(key, "RuntimeError: no"))
    events.send(Phase("loading adapters", 0, len(spec.adapters)))

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            events.send(Ready(TASKS, 1024, "fake"))

    config = uvicorn.Config(build_fake_app(), uds=spec.socket, log_level="warning")
    asyncio.run(Server(config).serve())


if __name__ == "__main__":
    main()
