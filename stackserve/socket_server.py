"""HTTP of an engine worker, on the Unix socket that only its gateway knows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

KEEP_ALIVE_SECONDS = 3600
"""Longer than the gateway keeps an idle connection, so that only the gateway closes them."""


class SocketServer(uvicorn.Server):
    """Serves until `should_exit`, and leaves signals to its process. `on_ready` is called when it answers."""

    def __init__(self, app: Any, socket: str, on_ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                uds=socket,
                log_level="warning",
                access_log=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=1,
            )
        )
        self._on_ready = on_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self._on_ready()
