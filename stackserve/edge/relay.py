"""The spine of the data plane: one request from its first byte to its last.

read the body → resolve `model` → pass the group's gate → ask the worker → pass its answer on.
"""

from __future__ import annotations

import asyncio
import io
import logging
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass

import aiohttp

from stackserve.edge.asgi import Receive, Scope, Send, send_part, send_start, send_whole
from stackserve.edge.body import ClientGone, RoutedBody, parse_body, read_body
from stackserve.edge.errors import answer, event
from stackserve.edge.streaming import EventStream, EventTooLarge
from stackserve.errors import EngineFailed, RequestRejected, ShuttingDown, StackserveError
from stackserve.metrics import Metrics, RequestTimer
from stackserve.routing.gate import Endpoint
from stackserve.routing.snapshot import Routes
from stackserve.types import Target

logger = logging.getLogger(__name__)

NEEDED_TASK = {
    "/v1/chat/completions": "generate",
    "/v1/completions": "generate",
    "/v1/responses": "generate",
    "/v1/embeddings": "embed",
}
"""The routes that are relayed, and vLLM's name of what the model must be able to do."""

WORKER_BROKE = (aiohttp.ClientError, ConnectionError, asyncio.IncompleteReadError, EventTooLarge)


@dataclass
class Drain:
    """Whether the server still takes requests."""

    begun: bool = False


class Relay:
    """An ASGI endpoint for the routes of `NEEDED_TASK`."""

    def __init__(self, routes: Routes, metrics: Metrics, drain: Drain, max_body: int) -> None:
        self._routes = routes
        self._metrics = metrics
        self._drain = drain
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope["path"], uuid.uuid4().hex, send)
        with self._metrics.request(scope["path"]) as timer:
            try:
                body = parse_body(await read_body(scope, receive, self._max_body))
                if self._drain.begun:
                    raise ShuttingDown("the server shuts down and takes no new requests")
                await self._route(exchange, body, receive, timer)
            except ClientGone:
                timer.outcome = "disconnected"
            except StackserveError as error:
                timer.outcome = error.code
                await exchange.fail(error)

    async def _route(
        self, exchange: Exchange, body: RoutedBody, receive: Receive, timer: RequestTimer
    ) -> None:
        target, gate = self._routes.current.resolve(body.model)
        timer.name(target)
        exchange.name(target)
        # Nothing may be awaited between `resolve` and `enter`: see Gate.uses.
        with gate.enter(target.worker_model) as endpoint:
            _check_task(exchange.path, target, endpoint)
            work = exchange.run(endpoint, target, body.with_model(target.worker_model), timer)
            if not await _unless_gone(receive, endpoint.closed, work):
                raise _broke_off(target)


def _check_task(path: str, target: Target, endpoint: Endpoint) -> None:
    task = NEEDED_TASK[path]
    if task not in endpoint.tasks:
        can = ", ".join(p for p, t in NEEDED_TASK.items() if t in endpoint.tasks)
        raise RequestRejected(
            f"model {target.key} does not support {path} (it serves {can}); "
            f"engine.runner of its group decides",
            code="unsupported_task",
            param="model",
        )


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

    def __init__(self, path: str, request_id: str, send: Send) -> None:
        self.path = path
        self._id = request_id
        self._send = send
        self._identity: tuple[tuple[str, str], ...] = (("x-request-id", request_id),)
        self._streaming = False

    def name(self, target: Target) -> None:
        """From now on every answer says whose it is, an error too."""
        self._identity = (*self._identity, *_identity(target))

    async def run(
        self, endpoint: Endpoint, target: Target, body: bytes, timer: RequestTimer
    ) -> None:
        """Ask the worker and pass its answer on. Raises EngineFailed when the worker breaks off."""
        headers = {"content-type": "application/json", "x-request-id": self._id}
        data = io.BytesIO(body)  # as a file: aiohttp warns of large bytes
        try:
            async with endpoint.session.post(self.path, data=data, headers=headers) as upstream:
                if upstream.content_type == "text/event-stream":
                    await self._pass_events(upstream, timer)
                else:
                    await self._pass_whole(upstream, timer)
        except WORKER_BROKE as error:
            logger.warning("%s: worker of %s broke off: %r", self._id, target.group, error)
            raise _broke_off(target) from None

    async def fail(self, error: StackserveError) -> None:
        """Tell the client: by status while that is possible, else by an event in the stream."""
        if self._streaming:
            await send_part(self._send, event(error), last=True)
            return
        told = answer(error)
        await send_whole(self._send, told.status, (*told.headers, *self._identity), told.body)

    async def _pass_whole(self, upstream: aiohttp.ClientResponse, timer: RequestTimer) -> None:
        body = await upstream.read()
        timer.first_byte()
        timer.outcome = "ok" if upstream.status < 400 else f"engine_{upstream.status}"
        content_type = ("content-type", upstream.headers.get("content-type", "application/json"))
        await send_whole(self._send, upstream.status, (content_type, *self._identity), body)

    async def _pass_events(self, upstream: aiohttp.ClientResponse, timer: RequestTimer) -> None:
        content_type = ("content-type", "text/event-stream; charset=utf-8")
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
