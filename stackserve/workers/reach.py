"""The way to a worker that answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from stackserve.routing.gate import Endpoint


@asynccontextmanager
async def reach(socket: Path, tasks: Iterable[str]) -> AsyncIterator[Endpoint]:
    """An endpoint on a worker's socket: as many connections as the gate lets in, and no limit on an
    answer's time. It closes with the context.
    """
    async with aiohttp.ClientSession(
        "http://worker",
        connector=aiohttp.UnixConnector(str(socket), limit=0, keepalive_timeout=60),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        endpoint = Endpoint(session, frozenset(tasks))
        try:
            yield endpoint
        finally:
            endpoint.closed.set()
