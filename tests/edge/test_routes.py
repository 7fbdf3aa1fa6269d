"""The application itself, asked without a server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stackserve.edge.asgi import Message
from stackserve.edge.relay import Drain
from stackserve.edge.routes import Statuses, build_app
from stackserve.edge.shadow import Shadows
from stackserve.metrics import Metrics
from stackserve.routing.snapshot import Routes
from stackserve.server_settings import ServerSettings


async def get(path: str, statuses: Statuses, sent: list[Message]) -> None:
    """Ask an application that knows no groups; what it answers goes to `sent`."""
    metrics = Metrics()
    app = build_app(Routes(), statuses, metrics, Drain(), Shadows(metrics), ServerSettings())

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http", "method": "GET", "path": path, "headers": [], "query_string": b"",
    }  # fmt: skip
    await app(scope, receive, send)


async def test_a_bug_is_answered_as_json_and_stays_an_exception_for_the_log() -> None:
    def bug() -> Any:
        raise RuntimeError("secret detail")

    sent: list[Message] = []
    with pytest.raises(RuntimeError):
        await get("/readyz", bug, sent)
    start, body = sent
    assert start["status"] == 500
    assert json.loads(body["body"])["error"] == {
        "message": "internal error; the server's log says more",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/redoc", "/v1/load_lora_adapter"])
async def test_nothing_is_served_that_is_not_listed(path: str) -> None:
    sent: list[Message] = []
    await get(path, list, sent)
    assert sent[0]["status"] == 404
    assert json.loads(sent[1]["body"])["error"]["code"] == "route_not_found"
