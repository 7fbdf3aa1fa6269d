"""The Open Inference Protocol v2 over HTTP: which path is answered by what.

Bodies of inference are passed to the worker as they came, and its answers are passed back. Errors are
always `{"error": "…"}`.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from starlette.routing import Route

import stackserve
from stackserve.control.states import DeploymentStatus
from stackserve.edge.asgi import Receive, Scope, Send, header, send_whole
from stackserve.edge.body import ClientGone, read_limited
from stackserve.edge.errors import JSON, answer, error_body
from stackserve.edge.health import readiness
from stackserve.edge.oip_views import config, index_entry, metadata, statistics
from stackserve.edge.relay import Drain
from stackserve.errors import (
    RequestRejected,
    ShuttingDown,
    StackserveError,
    TookTooLong,
    UnknownModel,
)
from stackserve.hosting.host import ModelHost, Request
from stackserve.hosting.models import HostedModel
from stackserve.metrics import Metrics, RequestTimer
from stackserve.routing.snapshot import Routes, Way, full_name
from stackserve.runtimes.protocol import Answer

logger = logging.getLogger(__name__)

EXTENSIONS = ("binary_tensor_data", "model_repository", "model_configuration", "statistics")

MODEL = re.compile(
    r"/v2/models/(?P<name>.+?)(?:/versions/(?P<version>[^/]+))?(?:/(?P<verb>infer|ready|config|stats))?"
)
REPOSITORY = re.compile(r"/v2/repository/models/(?P<name>.+?)/(?P<verb>load|unload)")
HEADER_LENGTH = b"inference-header-content-length"
METHOD = {"infer": "POST", "ready": "GET", "config": "GET", "stats": "GET", None: "GET"}

Json = Any


class Oip:
    """An ASGI endpoint for all paths below /v2."""

    def __init__(
        self,
        routes: Routes,
        statuses: Callable[[], Sequence[DeploymentStatus]],
        metrics: Metrics,
        drain: Drain,
        max_body: int,
    ) -> None:
        self._routes = routes
        self._statuses = statuses
        self._metrics = metrics
        self._drain = drain
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(scope, receive, send)
        except ClientGone:
            return
        except StackserveError as error:
            told = answer(error)
            await send_whole(send, told.status, told.headers, error_body(error.message))
        except Exception:
            logger.exception("%s %s stumbled", scope["method"], scope["path"])
            body = error_body("internal error; the server's log says more")
            await send_whole(send, 500, (("content-type", JSON),), body)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if (match := MODEL.fullmatch(path)) and match["name"] != "stats":
            _check_method(method, METHOD[match["verb"]], path)
            if match["verb"] == "infer":
                await self._infer(match["name"], match["version"], scope, receive, send)
                return
            status, body = await self._about_model(match["name"], match["version"], match["verb"])
        elif match := REPOSITORY.fullmatch(path):
            _check_method(method, "POST", path)
            asked = await self._json(scope, receive)
            status, body = await self._repository(match["name"], match["verb"], asked)
        else:
            status, body = await self._about_server(path, method, scope, receive)
        await send_whole(send, status, (("content-type", JSON),), msgspec.json.encode(body))

    # The server

    async def _about_server(
        self, path: str, method: str, scope: Scope, receive: Receive
    ) -> tuple[int, Json]:
        if path == "/v2/repository/index":
            _check_method(method, "POST", path)
            asked = await self._json(scope, receive)
            return 200, self._index(ready_only=asked.get("ready") is True)
        _check_method(method, "GET", path)
        match path.rstrip("/"):
            case "/v2":
                about = {"name": "stackserve", "version": stackserve.__version__}
                return 200, {**about, "extensions": EXTENSIONS}
            case "/v2/health/live":
                return 200, {"live": True}
            case "/v2/health/ready":
                word = readiness(self._statuses())
                ready = word in ("ready", "degraded") and not self._drain.begun
                return 200 if ready else 503, {"ready": ready, "live": True}
            case "/v2/models/stats":
                every = [model for _, models in self._all() for model in models]
                return 200, {"model_stats": [statistics(name, m) for name, m in every]}
        raise RequestRejected(f"no route {path}", code="route_not_found")

    def _index(self, *, ready_only: bool) -> list[Json]:
        entries = [index_entry(name, m, h) for h, models in self._all() for name, m in models]
        return [each for each in entries if each["state"] == "READY" or not ready_only]

    def _all(self) -> list[tuple[ModelHost, list[tuple[str, HostedModel]]]]:
        """The hosts, each with its models and their names."""
        found = []
        for routes in self._routes.current.groups.values():
            if isinstance(host := routes.gate.endpoint, ModelHost):
                named = [
                    (full_name(target) if routes.address else target.key, model)
                    for target in routes.targets
                    for model in host.versions(target.worker_model).values()
                ]
                found.append((host, named))
        return found

    # Models

    async def _about_model(
        self, name: str, version: str | None, verb: str | None
    ) -> tuple[int, Json]:
        host, model = self._find(name, version)
        match verb:
            case "ready":
                ready = host.answers(model)
                return 200 if ready else 503, {"name": name, "ready": ready}
            case "stats":
                chosen = [model] if version else host.versions(model.source.key).values()
                return 200, {"model_stats": [statistics(name, each) for each in chosen]}
        if model.metadata is None:
            with model.in_use():
                await host.loading.bring(model)
        versions = list(host.versions(model.source.key))
        return 200, (config if verb == "config" else metadata)(name, model, versions)

    async def _repository(self, name: str, verb: str, asked: Json) -> tuple[int, Json]:
        if parameters := asked.get("parameters", {}):
            given = [p for p in parameters if p == "config" or p.startswith("file:")]
            if given:
                raise RequestRejected(
                    f"the parameter {given[0][:64]} is not supported; change the group's file instead"
                )
        try:
            host, model = self._find(name, None)
        except UnknownModel as error:
            if verb == "unload":
                return 200, {}
            raise UnknownModel(f"failed to load {name[:64]!r}: {error.message}") from None
        for each in list(host.versions(model.source.key).values()):
            if verb == "load":
                await host.loading.load(each)
            else:
                await host.loading.remove(each)
        return 200, {}

    def _find(self, name: str, version: str | None) -> tuple[ModelHost, HostedModel]:
        return _hosted(self._way(name), name, version)

    def _way(self, name: str) -> Way:
        try:
            return self._routes.current.resolve(name)
        except UnknownModel:
            raise _unknown(name, None) from None

    # Inference

    async def _infer(
        self, name: str, version: str | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        with self._metrics.request("oip") as timer:
            try:
                body = await read_limited(scope, receive, self._max_body)
                reply, body = await self._ask(name, version, _request(name, scope, body), timer)
                timer.first_byte()
                await send_whole(send, reply.status, _headers(reply), body)
                timer.outcome = "ok"
            except ClientGone:
                timer.outcome = "disconnected"
                raise
            except StackserveError as error:
                timer.outcome = error.code
                raise

    async def _ask(
        self, name: str, version: str | None, request: Request, timer: RequestTimer
    ) -> tuple[Answer, bytes]:
        if self._drain.begun:
            raise ShuttingDown("the server shuts down and takes no new requests")
        way = self._way(name)
        timer.name(way.target)
        with way.gate.enter(way.target.worker_model):
            return await _in_time(*_hosted(way, name, version), request)

    async def _json(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        """A body that is a JSON object, or nothing."""
        body = await read_limited(scope, receive, self._max_body)
        try:
            return msgspec.json.decode(body, type=dict[str, Any]) if body.strip() else {}
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RequestRejected(
                f"the body is not a JSON object: {error}", code="invalid_json"
            ) from None


def oip_routes(oip: Oip) -> list[Route]:
    """All that is below /v2, for the gateway's application."""
    methods = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"]
    return [Route("/v2", oip, methods=methods), Route("/v2/{rest:path}", oip, methods=methods)]


def _hosted(way: Way, name: str, version: str | None) -> tuple[ModelHost, HostedModel]:
    host = way.gate.endpoint
    if host is None:
        raise way.gate.not_ready()
    if not isinstance(host, ModelHost):
        raise RequestRejected(
            f"model {name[:64]} is a language model; ask it at /v1/chat/completions",
            code="unsupported_task",
        )
    model = host.find(way.target.worker_model, version)
    if model is None:
        raise _unknown(name, version)
    return host, model


async def _in_time(host: ModelHost, model: HostedModel, request: Request) -> tuple[Answer, bytes]:
    limit = host.plan.infer_seconds
    try:
        async with asyncio.timeout(limit):
            return await host.infer(model, request)
    except TimeoutError:
        raise TookTooLong(f"no answer within {limit:g} s (timeout_seconds of its group)") from None


def _unknown(name: str, version: str | None) -> UnknownModel:
    shown = f"{name[:64]!r} version {version[:32]}" if version else f"{name[:64]!r}"
    return UnknownModel(f"Request for unknown model: {shown} is not found")


def _check_method(method: str, wanted: str, path: str) -> None:
    if method != wanted:
        raise RequestRejected(f"{method} is not allowed on {path}", code="method_not_allowed")


def _request(name: str, scope: Scope, body: bytes) -> Request:
    encoding = header(scope, b"content-encoding")
    encoding = None if encoding == "identity" else encoding
    return Request(
        name,
        body,
        _json_bytes(header(scope, HEADER_LENGTH), None if encoding else len(body)),
        encoding,
        _accepted(header(scope, b"accept-encoding")),
    )


def _json_bytes(written: str | None, most: int | None) -> int | None:
    """The header's number, at most `most` if that is known."""
    if written is None:
        return None
    if not written.isascii() or not written.isdecimal() or len(written) > 10:
        raise RequestRejected(
            f"Inference-Header-Content-Length is {written[:32]!r}; give the bytes of the JSON part"
        )
    if most is not None and int(written) > most:
        raise RequestRejected(
            f"Inference-Header-Content-Length is {written}, and the body has {most} bytes"
        )
    return int(written)


def _headers(reply: Answer) -> list[tuple[str, str]]:
    headers = [("content-type", JSON)]
    if reply.json_bytes is not None:
        headers = [
            ("content-type", "application/octet-stream"),
            ("inference-header-content-length", str(reply.json_bytes)),
        ]
    if reply.encoding is not None:
        headers.append(("content-encoding", reply.encoding))
    return headers


def _accepted(written: str | None) -> str | None:
    """The first encoding of the two that a client takes."""
    if written is None:
        return None
    for each in written.lower().split(","):
        name, _, quality = each.strip().partition(";")
        if name in ("gzip", "deflate") and quality.replace(" ", "") not in ("q=0", "q=0.0"):
            return name
    return None
