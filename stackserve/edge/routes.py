"""The gateway's HTTP application: which path is answered by what."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from stackserve.control.states import DeploymentStatus
from stackserve.edge.errors import answer
from stackserve.edge.health import add_health
from stackserve.edge.models import model_list, shown_model
from stackserve.edge.oip import Oip, oip_routes
from stackserve.edge.predict import Predict, predict_routes
from stackserve.edge.relay import NEEDED_TASK, Drain, Relay
from stackserve.edge.shadow import Shadows
from stackserve.errors import RequestRejected, StackserveError
from stackserve.metrics import Metrics
from stackserve.routing.snapshot import Routes
from stackserve.server_settings import ServerSettings

MIB = 2**20

Statuses = Callable[[], Sequence[DeploymentStatus]]


def build_app(
    routes: Routes,
    statuses: Statuses,
    metrics: Metrics,
    drain: Drain,
    shadows: Shadows,
    server: ServerSettings,
) -> FastAPI:
    """Wire the paths to their answers."""
    app = FastAPI(title="stackserve", openapi_url=None, docs_url=None, redoc_url=None)
    relay = Relay(routes, metrics, drain, shadows, server.max_body_mib * MIB)
    predict = Predict(relay, server.predict_max_body_mib * MIB, server.predict_timeout_seconds)
    app.router.routes.extend(Route(path, relay, methods=["POST"]) for path in NEEDED_TASK)
    app.router.routes.extend(predict_routes(predict, routes, int(time.time())))
    app.router.routes.extend(
        oip_routes(Oip(routes, statuses, metrics, drain, server.max_body_mib * MIB))
    )
    app.add_exception_handler(StackserveError, _on_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_bug)
    _add_models(app, routes)
    add_health(app, routes, statuses, metrics, drain)
    return app


def _add_models(app: FastAPI, routes: Routes) -> None:
    created = int(time.time())

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return model_list(routes.current, created)

    @app.get("/v1/models/{name:path}")
    async def show_model(name: str) -> dict[str, Any]:
        return shown_model(routes.current, name, created)


async def _on_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, StackserveError)
    told = answer(error)
    return Response(told.body, told.status, dict(told.headers))


async def _on_bug(request: Request, _: Exception) -> Response:
    return await _on_error(request, StackserveError("internal error; the server's log says more"))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    served = ", ".join((*NEEDED_TASK, "/v1/models"))
    if error.status_code == 405:
        wrong = RequestRejected(
            f"{request.method} is not allowed on {path}", code="method_not_allowed"
        )
    else:
        wrong = RequestRejected(f"no route {path}; served are {served}", code="route_not_found")
    return await _on_error(request, wrong)
