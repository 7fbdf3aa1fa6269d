"""The adapters that a fake worker knows: it takes new ones and forgets them as `stackserve.protocol` says.

`options.fake_start` of the spec can hold `{"puts": {KEY: ORDER}}`, obeyed when that key is added:

    refuse   422, as of an adapter that cannot be loaded
    die      the process ends without an answer
    wait     no answer before `POST /go`

`GET /known` tells the specs as they now are, and every change that was asked for, in order.
"""

from __future__ import annotations

import asyncio
import os

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stackserve.protocol import ADAPTERS_PATH, AdapterSpec, WorkerSpec

STEP_SECONDS = 0.02
"""An engine takes part in each change, which it does between two steps."""


class FakeAdapters:
    """Owns what is known, by the names in the worker."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.known = {each.worker_model: each for each in spec.adapters}
        self._base = str(spec.options.get("served_model_name", "base"))
        self._changes: list[str] = []
        self._go = asyncio.Event()
        order = spec.options.get("fake_start")
        self._puts: dict[str, str] = order.get("puts", {}) if isinstance(order, dict) else {}

    def knows(self, worker_model: str) -> bool:
        """Whether a request may name it."""
        return worker_model == self._base or worker_model in self.known

    def served_keys(self) -> list[str]:
        """The inference keys, in order; one has several entries while it is replaced."""
        return [each.key for each in self.known.values()]

    def routes(self) -> list[Route]:
        """PUT, DELETE, and those for tests."""
        return [
            Route(ADAPTERS_PATH, self._add, methods=["PUT"]),
            Route(f"{ADAPTERS_PATH}/{{name}}", self._remove, methods=["DELETE"]),
            Route("/known", self._tell),
            Route("/go", self._answer_now, methods=["POST"]),
        ]

    async def _add(self, request: Request) -> Response:
        spec = msgspec.json.decode(await request.body(), type=AdapterSpec)
        self._changes.append(f"PUT {spec.key}{' pinned' if spec.pinned else ''}")
        match self._puts.get(spec.key):
            case "refuse":
                error = {"code": "adapter_load_failed", "message": "RuntimeError: no"}
                return JSONResponse({"error": error}, 422)
            case "die":
                os._exit(1)
            case "wait":
                await self._go.wait()
        await asyncio.sleep(STEP_SECONDS)
        self.known[spec.worker_model] = spec
        return Response(status_code=204)

    async def _remove(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._changes.append(f"DELETE {name.partition('@')[0]}")
        if name not in self.known:
            error = {"code": "unknown_adapter", "message": f"no adapter is called {name} here"}
            return JSONResponse({"error": error}, 404)
        del self.known[name]
        await asyncio.sleep(STEP_SECONDS)
        return Response(status_code=204)

    async def _tell(self, _: Request) -> Response:
        told = {"known": list(self.known.values()), "changes": self._changes}
        return Response(msgspec.json.encode(told), media_type="application/json")

    async def _answer_now(self, _: Request) -> Response:
        self._go.set()
        return Response(status_code=204)


def no_such_model(worker_model: str) -> Response:
    """What vLLM answers to a request for an unknown model."""
    message = f"The model `{worker_model}` does not exist."
    error = {"message": message, "type": "NotFoundError", "param": "model", "code": 404}
    return JSONResponse({"error": error}, 404)
