"""The spine of the data plane: one request from its first byte to its last.

read the body → resolve `model` → pass the group's gate → ask the worker → pass its answer on.
"""

from __future__ import annotations

import asyncio
import io
import logging
import random
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

import aiohttp
import msgspec

from stackserve.edge.asgi import Receive, Scope, Send, send_part, send_start, send_whole
from stackserve.edge.body import ClientGone, RoutedBody, parse_body, read_body
from stackserve.edge.errors import answer, event, oci_answer, oci_body
from stackserve.edge.shadow import Shadows
from stackserve.edge.streaming import EventStream, EventTooLarge
from stackserve.errors import (
    EngineFailed,
    RequestRejected,
    ShuttingDown,
    StackserveError,
    TookTooLong,
)
from stackserve.metrics import Metrics, RequestTimer
from stackserve.routing.gate import Endpoint, Hosted
from stackserve.routing.snapshot import Routes, Way
from stackserve.types import Target

logger = logging.getLogger(__name__)

NEEDED_TASK = {
    "/v1/chat/completions": "generate",
    "/v1/completions": "generate",
    "/v1/responses": "generate",
    "/v1/embeddings": "embed",
}
"""The routes that are relayed, and vLLM's name of what the model must be able to do."""

PATH_OF_FIELD = {
    "messages": "/v1/chat/completions",
    "prompt": "/v1/completions",
    "input": "/v1/embeddings",
}
"""What a body is for that came to a deployment's `predict`."""

WORKER_BROKE = (aiohttp.ClientError, ConnectionError, asyncio.IncompleteReadError, EventTooLarge)


@dataclass
class Drain:
    """Whether the server still takes requests."""

    begun: bool = False


@dataclass(frozen=True)
class Call:
    """What a path and its headers say of a request, before its body is read.

    `path` is the worker's route, None where the body decides it; `address` a deployment's OCID, `key`
    what a header names; `stream` asks for events whatever the body says.
    """

    route: str
    path: str | None
    max_body: int
    address: str | None = None
    key: str | None = None
    stream: bool = False
    timeout: float | None = None
    """Seconds for a whole answer; a stream may take as long as it likes."""

    @property
    def is_of_deployment(self) -> bool:
        return self.address is not None


class Relay:
    """An ASGI endpoint for the routes of `NEEDED_TASK`."""

    def __init__(
        self, routes: Routes, metrics: Metrics, drain: Drain, shadows: Shadows, max_body: int
    ) -> None:
        self._routes = routes
        self._metrics = metrics
        self._drain = drain
        self._shadows = shadows
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        await self.relay(Call(path, path, self._max_body), scope, receive, send)

    async def relay(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever becomes of it."""
        exchange = Exchange(uuid.uuid4().hex, send, of_deployment=call.is_of_deployment)
        with self._metrics.request(call.route) as timer:
            try:
                raw = await read_body(scope, receive, call.max_body)
                body = parse_body(raw, may_lack_model=call.is_of_deployment)
                if self._drain.begun:
                    raise ShuttingDown("the server shuts down and takes no new requests")
                await self._route(exchange, call, body, receive, timer)
            except ClientGone:
                timer.outcome = "disconnected"
            except StackserveError as error:
                timer.outcome = error.code
                await exchange.fail(error)

    async def _route(
        self,
        exchange: Exchange,
        call: Call,
        body: RoutedBody,
        receive: Receive,
        timer: RequestTimer,
    ) -> None:
        way = self._way(call, body)
        target = way.target
        timer.name(target)
        exchange.name(way)
        path = call.path or _path_of(body)
        # Nothing may be awaited between `_way` and `enter`: see Gate.uses.
        with way.gate.enter(target.worker_model) as endpoint:
            endpoint = _checked(path, target, endpoint)
            self._shadows.send(way, path, body, exchange.id)
            relayed = body.with_model(target.worker_model, stream=call.stream)
            work = exchange.run(endpoint, path, target, relayed, timer)
            if not await _unless_gone(receive, endpoint.closed, _in_time(call, exchange, work)):
                raise _broke_off(target)

    def _way(self, call: Call, body: RoutedBody) -> Way:
        name, draw, snapshot = _name_of(call, body), random.random(), self._routes.current
        if call.address is not None:
            return snapshot.resolve_at(call.address, name, draw)
        return snapshot.resolve(name or "", draw)


def _path_of(body: RoutedBody) -> str:
    """The worker's route for a body that says itself what it asks for."""
    for field, path in PATH_OF_FIELD.items():
        if field in body:
            return path
    raise RequestRejected(
        f"the body has none of {', '.join(PATH_OF_FIELD)}; give one of them, or name the route in the "
        "header `route`"
    )


def _name_of(call: Call, body: RoutedBody) -> str | None:
    """What the request names as its model, in a header or the body."""
    if call.key is not None and body.model not in (None, call.key):
        raise RequestRejected(
            f"the header model-key is {call.key[:64]} and model is {body.model[:64]}; give one of them",
            param="model",
        )
    return call.key or body.model


async def _in_time(call: Call, exchange: Exchange, work: Coroutine[None, None, None]) -> None:
    """Raises TookTooLong for an answer that is not there in time, and is no stream."""
    limit = asyncio.timeout(call.timeout)
    exchange.on_answer = lambda: limit.reschedule(None)
    try:
        async with limit:
            await work
    except TimeoutError:
        if not limit.expired():
            raise
        raise TookTooLong(
            f"no answer within {call.timeout:g} s (server.predict_timeout_seconds); ask for a stream, "
            "or for fewer tokens"
        ) from None


def _checked(path: str, target: Target, endpoint: Endpoint | Hosted) -> Endpoint:
    """The endpoint, which can do what the path asks for. Raises RequestRejected."""
    if isinstance(endpoint, Hosted):
        raise RequestRejected(
            f"model {target.key} does not support {path}; ask it at /v2/models/{target.key}/infer",
            code="unsupported_task",
            param="model",
        )
    task = NEEDED_TASK[path]
    if task not in endpoint.tasks:
        can = ", ".join(p for p, t in NEEDED_TASK.items() if t in endpoint.tasks)
        raise RequestRejected(
            f"model {target.key} does not support {path} (it serves {can}); "
            f"engine.runner of its group decides",
            code="unsupported_task",
            param="model",
        )
    return endpoint


async def _unless_gone(
    receive: Receive, closed: asyncio.Event, work: Coroutine[None, None, None]
) -> bool:
    """Do the work, but cancel it as soon as an end of it has gone, since its slot is worth keeping
    free: raises ClientGone, or returns False when the worker was `closed`.
    """

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working = asyncio.create_task(work)
    watching = asyncio.create_task(gone())
    closing = asyncio.create_task(closed.wait())
    tasks = (working, watching, closing)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
        elif watching.done():
            raise ClientGone
        return working.done()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Exchange:
    """One request to a worker and the answer to the client."""

    def __init__(self, request_id: str, send: Send, *, of_deployment: bool = False) -> None:
        self.on_answer: Callable[[], None] = lambda: None
        """Called when the whole answer is there, or a stream begins."""
        self.id = request_id
        self._of_deployment = of_deployment
        self._send = send
        self._identity: tuple[tuple[str, str], ...] = (("x-request-id", request_id),)
        self._streaming = False

    def name(self, way: Way) -> None:
        """From now on every answer says whose it is, an error too."""
        self._identity = (*self._identity, *_identity(way.target))
        if way.alias is not None:
            self._identity = (*self._identity, ("x-stackserve-alias", way.alias))

    async def run(
        self, endpoint: Endpoint, path: str, target: Target, body: bytes, timer: RequestTimer
    ) -> None:
        """Ask the worker and pass its answer on. Raises EngineFailed when the worker breaks off."""
        headers = {"content-type": "application/json", "x-request-id": self.id}
        data = io.BytesIO(body)  # as a file: aiohttp warns of large bytes
        try:
            async with endpoint.session.post(path, data=data, headers=headers) as upstream:
                if upstream.content_type == "text/event-stream":
                    self.on_answer()
                    await self._pass_events(upstream, timer)
                else:
                    await self._pass_whole(upstream, timer)
        except WORKER_BROKE as error:
            logger.warning("%s: worker of %s broke off: %r", self.id, target.group, error)
            raise _broke_off(target) from None

    async def fail(self, error: StackserveError) -> None:
        """Tell the client: by status while that is possible, else by an event in the stream."""
        if self._streaming:
            await send_part(self._send, event(error), last=True)
            return
        told = oci_answer(error) if self._of_deployment else answer(error)
        await send_whole(self._send, told.status, (*told.headers, *self._identity), told.body)

    async def _pass_whole(self, upstream: aiohttp.ClientResponse, timer: RequestTimer) -> None:
        body = await upstream.read()
        self.on_answer()
        timer.first_byte()
        timer.outcome = "ok" if upstream.status < 400 else f"engine_{upstream.status}"
        if self._of_deployment and upstream.status >= 400:
            body = _with_oci_code(upstream.status, body)
        content_type = ("content-type", upstream.headers.get("content-type", "application/json"))
        await send_whole(self._send, upstream.status, (content_type, *self._identity), body)

    async def _pass_events(self, upstream: aiohttp.ClientResponse, timer: RequestTimer) -> None:
        # OCI's SDK takes it for a stream only without a charset.
        charset = "" if self._of_deployment else "; charset=utf-8"
        content_type = ("content-type", f"text/event-stream{charset}")
        unbuffered = (("cache-control", "no-cache"), ("x-accel-buffering", "no"))
        await send_start(self._send, upstream.status, (content_type, *unbuffered, *self._identity))
        self._streaming = True
        events = EventStream()
        async for chunk in upstream.content.iter_any():
            if passed := events.whole_events(chunk):
                timer.first_byte()
                await send_part(self._send, passed, last=False)
        if events.unfinished:
            raise aiohttp.ClientPayloadError("the stream ends inside an event")
        timer.outcome = "engine_error" if events.saw_error else "ok"
        await send_part(self._send, b"", last=True)


def _with_oci_code(status: int, body: bytes) -> bytes:
    """A worker's error, with OCI's code and message on top if it can be read."""
    try:
        return oci_body(status, str(msgspec.json.decode(body)["error"]["message"]), body)
    except (msgspec.MsgspecError, LookupError, TypeError):
        return body


def _broke_off(target: Target) -> EngineFailed:
    return EngineFailed(
        f"the engine of group {target.group} broke off while it worked on this request; "
        "please try again"
    )


def _identity(target: Target) -> tuple[tuple[str, str], ...]:
    """Which weights gave the answer."""
    return (
        ("x-stackserve-group", target.group),
        ("x-stackserve-version", target.version),
        ("x-stackserve-key", target.key),
        ("x-stackserve-adapter-sha256", target.adapter_sha256 or "none"),
    )
