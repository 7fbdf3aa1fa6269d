"""The worker's routes about its adapters: what the engine counts, and adding and removing them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stackserve.engine.adapter_registry import AdapterRegistry, AdapterUnusable, UnknownAdapter
from stackserve.protocol import ADAPTERS_PATH, AdapterSpec

Endpoint = Callable[[Request], Awaitable[Response]]


def add_adapter_routes(app: Any, registry: AdapterRegistry) -> None:
    """Answer in a Starlette application, as vLLM's is, what `stackserve.protocol` says of
    `ADAPTERS_PATH`. Only the gateway reaches it.
    """

    async def snapshot(_: Request) -> Response:
        return Response(await registry.snapshot(), media_type="application/json")

    async def add(request: Request) -> Response:
        spec = msgspec.json.decode(await request.body(), type=AdapterSpec)
        await registry.add(spec)
        return Response(status_code=204)

    async def remove(request: Request) -> Response:
        await registry.remove(request.path_params["name"])
        return Response(status_code=204)

    one = f"{ADAPTERS_PATH}/{{name}}"
    app.router.routes += [
        Route(ADAPTERS_PATH, snapshot, methods=["GET"]),
        Route(ADAPTERS_PATH, _explained(add), methods=["PUT"]),
        Route(one, _explained(remove), methods=["DELETE"]),
    ]


def _explained(endpoint: Endpoint) -> Endpoint:
    """An endpoint whose refusals are answers."""

    async def explained(request: Request) -> Response:
        try:
            return await endpoint(request)
        except msgspec.DecodeError as error:
            return _refusal(400, "bad_adapter_spec", str(error))
        except UnknownAdapter as error:
            return _refusal(404, "unknown_adapter", str(error))
        except AdapterUnusable as error:
            return _refusal(422, "adapter_load_failed", str(error))

    return explained


def _refusal(status: int, code: str, message: str) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status)
