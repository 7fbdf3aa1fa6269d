"""`/metrics`: what the gateway counts, and what each engine counts, asked of its worker at that moment."""

from __future__ import annotations

import asyncio
import logging
import math
import time

import aiohttp
import msgspec

from stackserve.edge.engine_metrics import engine_metrics
from stackserve.edge.oip_metrics import oip_metrics
from stackserve.edge.router_metrics import router_metrics
from stackserve.hosting.host import ModelHost
from stackserve.metrics import Metrics
from stackserve.protocol import ADAPTERS_PATH, AdaptersSnapshot
from stackserve.routing.gate import Endpoint
from stackserve.routing.snapshot import Routes

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 2.0
"""How long a worker may take; its engine answers between two steps."""
FRESH_SECONDS = 0.5
"""An answer so young serves the next scrape too: an engine is not asked more often, whoever scrapes."""

NO_ANSWER = (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError)


class Scrape:
    """Puts the text together. A worker that does not answer is counted and contributes nothing."""

    def __init__(self, routes: Routes, metrics: Metrics) -> None:
        self._routes = routes
        self._metrics = metrics
        self._asking = asyncio.Lock()
        self._asked = -math.inf
        self._engines: dict[str, AdaptersSnapshot] = {}

    async def text(self) -> bytes:
        """Made in a thread, since it takes time with many keys."""
        engines = await self._fresh_engines()
        return await asyncio.to_thread(self._render, engines)

    def _render(self, engines: dict[str, AdaptersSnapshot]) -> bytes:
        hosts = [
            (name, host)
            for name, group in self._routes.current.groups.items()
            if isinstance(host := group.gate.endpoint, ModelHost)
        ]
        lines = (
            *engine_metrics(engines),
            *router_metrics(engines, time.time()),
            *oip_metrics(hosts),
        )
        return self._metrics.render() + "".join(lines).encode()

    async def _fresh_engines(self) -> dict[str, AdaptersSnapshot]:
        async with self._asking:
            if time.monotonic() - self._asked >= FRESH_SECONDS:
                self._engines = await self._ask_all()
                self._asked = time.monotonic()
            return self._engines

    async def _ask_all(self) -> dict[str, AdaptersSnapshot]:
        endpoints = {
            group: endpoint
            for group, routes in self._routes.current.groups.items()
            if isinstance(endpoint := routes.gate.endpoint, Endpoint)
        }
        asked = [self._ask(group, endpoint) for group, endpoint in endpoints.items()]
        answers = zip(endpoints, await asyncio.gather(*asked), strict=True)
        return {group: snapshot for group, snapshot in answers if snapshot is not None}

    async def _ask(self, group: str, endpoint: Endpoint) -> AdaptersSnapshot | None:
        """None where there is nothing to count, or no answer."""
        if endpoint.closed.is_set():
            return None
        failures = self._metrics.scrape_failures.labels(group)
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        try:
            async with endpoint.session.get(ADAPTERS_PATH, timeout=timeout) as answer:
                if answer.status == 404:
                    return None
                answer.raise_for_status()
                return msgspec.json.decode(await answer.read(), type=AdaptersSnapshot)
        except NO_ANSWER as error:
            logger.warning("%s: its worker did not say what it counts: %r", group, error)
            failures.inc()
            return None
