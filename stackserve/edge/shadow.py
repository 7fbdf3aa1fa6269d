"""Copies of requests for an alias's shadow: asked like any request, and their answers thrown away."""

from __future__ import annotations

import asyncio
import io
import logging
from contextlib import ExitStack
from functools import partial

import aiohttp

from stackserve.edge.body import RoutedBody
from stackserve.errors import GroupNotReady, Overloaded
from stackserve.metrics import Metrics
from stackserve.routing.gate import Endpoint
from stackserve.routing.snapshot import Way
from stackserve.types import Target

logger = logging.getLogger(__name__)

MOST = 16
"""Copies under way at once; each holds its request's body."""
ANSWER_SECONDS = 600.0
"""After that a copy is given up: nobody else would."""

FAILED = (aiohttp.ClientError, OSError, TimeoutError)


class Shadows:
    """Those of one gateway. Each is counted once: `ok`, `failed`, or `dropped` when it was not asked, or
    not to its end, for want of room or because the server drains.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._under_way: set[asyncio.Task[bool]] = set()
        self._closed = False

    def send(self, way: Way, path: str, body: RoutedBody, request_id: str) -> None:
        """Begin to ask the shadow, if the way has one. Returns at once and never fails the request.

        Nothing may be awaited between the resolving of `way` and this: see Gate.uses.
        """
        if (shadow := way.shadow) is None:
            return
        if self._closed or len(self._under_way) >= MOST:
            self._count(shadow, "dropped")
            return
        inside = ExitStack()
        try:
            endpoint = inside.enter_context(way.gate.enter(shadow.worker_model))
        except (GroupNotReady, Overloaded):
            self._count(shadow, "dropped")
            return
        assert isinstance(endpoint, Endpoint)  # only stacked groups have aliases
        task = asyncio.create_task(_ask(endpoint, path, shadow, body, f"{request_id}-shadow"))
        self._under_way.add(task)
        # Unlike the task's own end, its callback also comes when it is cancelled before it began.
        task.add_done_callback(partial(self._ended, shadow, inside))

    async def close(self) -> None:
        """End those under way and take no more."""
        self._closed = True
        ending = tuple(self._under_way)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    def _ended(self, shadow: Target, inside: ExitStack, task: asyncio.Task[bool]) -> None:
        self._under_way.discard(task)
        inside.close()
        if task.cancelled():
            self._count(shadow, "dropped")
        elif error := task.exception():
            logger.error("a shadow of %s/%s stumbled", shadow.group, shadow.key, exc_info=error)
            self._count(shadow, "failed")
        else:
            self._count(shadow, "ok" if task.result() else "failed")

    def _count(self, shadow: Target, outcome: str) -> None:
        self._metrics.shadows.labels(shadow.group, shadow.key, outcome).inc()


async def _ask(
    endpoint: Endpoint, path: str, shadow: Target, body: RoutedBody, request_id: str
) -> bool:
    """Whether the worker answered well."""
    await asyncio.sleep(0)  # the request itself goes first
    work = _answered(endpoint, path, body.in_one_piece(shadow.worker_model), request_id)
    asking = asyncio.create_task(work)
    closing = asyncio.create_task(endpoint.closed.wait())
    try:
        await asyncio.wait(
            (asking, closing), timeout=ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        return asking.done() and asking.result()
    finally:
        asking.cancel()
        closing.cancel()
        await asyncio.gather(asking, closing, return_exceptions=True)


async def _answered(endpoint: Endpoint, path: str, body: bytes, request_id: str) -> bool:
    headers = {"content-type": "application/json", "x-request-id": request_id}
    try:
        async with endpoint.session.post(path, data=io.BytesIO(body), headers=headers) as upstream:
            async for _ in upstream.content.iter_any():
                pass
            return upstream.status < 400
    except FAILED:
        return False
