"""Asks a living worker to take adapters and to forget them; see `stackserve.protocol`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import aiohttp
import msgspec

from stackserve.protocol import ADAPTERS_PATH, AdapterSpec

LOAD_SECONDS = 120.0
"""How long a worker may take to load one adapter."""

NOT_FOUND = 404

PROBE = "Hello"
ONE_TOKEN: dict[str, Any] = {"max_tokens": 1}


class AdapterNotTaken(Exception):
    """The worker does not take an adapter, or not so; the message says why."""


async def put_adapter(session: aiohttp.ClientSession, spec: AdapterSpec) -> None:
    """Have a worker load an adapter; of one that it has, change the weight and the pin.

    Requests may name it afterwards. Raises AdapterNotTaken, after which it has nothing new, and what
    aiohttp raises when the worker is gone.
    """
    body, timeout = msgspec.json.encode(spec), aiohttp.ClientTimeout(total=LOAD_SECONDS)
    try:
        async with session.put(ADAPTERS_PATH, data=body, timeout=timeout) as answer:
            if not answer.ok:
                raise AdapterNotTaken(_reason(answer.status, await answer.read()))
    except TimeoutError:
        await delete_adapter(session, spec.worker_model)
        raise AdapterNotTaken(f"it was not loaded within {LOAD_SECONDS:g} s") from None


async def delete_adapter(session: aiohttp.ClientSession, worker_model: str) -> None:
    """Have a worker forget an adapter, if it knows it; its running requests finish.

    Raises AdapterNotTaken for an answer that makes no sense, and what aiohttp raises when the worker
    is gone.
    """
    timeout = aiohttp.ClientTimeout(total=LOAD_SECONDS)
    async with session.delete(f"{ADAPTERS_PATH}/{worker_model}", timeout=timeout) as answer:
        if not answer.ok and answer.status != NOT_FOUND:
            raise AdapterNotTaken(_reason(answer.status, await answer.read()))


async def probe_model(
    session: aiohttp.ClientSession, worker_model: str, tasks: Collection[str]
) -> str | None:
    """Have a model of the worker's compute one token, or one embedding; why it cannot, or None.

    Raises what aiohttp raises when the worker is gone.
    """
    body: dict[str, Any]
    path, body = "/v1/embeddings", {"model": worker_model, "input": PROBE}
    if "generate" in tasks:
        path, body = "/v1/completions", {"model": worker_model, "prompt": PROBE, **ONE_TOKEN}
    timeout = aiohttp.ClientTimeout(total=LOAD_SECONDS)
    try:
        async with session.post(path, json=body, timeout=timeout) as answer:
            content = await answer.read()
            return None if answer.ok else _reason(answer.status, content)
    except TimeoutError:
        return f"it did not compute one token within {LOAD_SECONDS:g} s"


def _reason(status: int, body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, LookupError, TypeError):
        return f"the worker answers {status}"
