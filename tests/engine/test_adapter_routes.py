"""The worker's answer to the gateway's scrape, asked without a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import msgspec
from starlette.applications import Starlette

from stackserve.engine.adapter_registry import AdapterRegistry, Ask
from stackserve.engine.adapter_routes import add_adapter_routes
from stackserve.meters import AdapterMeters
from stackserve.protocol import ADAPTERS_PATH, AdaptersSnapshot


async def scrape(ask: Ask) -> httpx.Response:
    app = Starlette()
    add_adapter_routes(app, AdapterRegistry(app, ask))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        return await client.get(ADAPTERS_PATH)


async def test_passes_the_snapshot_on_as_the_engine_encoded_it() -> None:
    meters = AdapterMeters()
    meters.arrived("a")
    snapshot = meters.snapshot()

    async def ask(operation: str, arguments: Mapping[str, Any]) -> bytes:
        assert (operation, arguments) == ("snapshot", {})
        return msgspec.json.encode(snapshot)

    answer = await scrape(ask)
    assert answer.headers["content-type"] == "application/json"
    assert msgspec.json.decode(answer.content, type=AdaptersSnapshot) == snapshot


async def test_an_engine_that_fails_is_a_failure() -> None:
    async def ask(operation: str, arguments: Mapping[str, Any]) -> bytes:
        raise RuntimeError("the engine is gone")

    assert (await scrape(ask)).status_code == 500
