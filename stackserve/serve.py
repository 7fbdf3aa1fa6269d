"""`stackserve serve FILE`: from a file to a server that runs until it is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from rich.text import Text

from stackserve.adapters import AdapterStore
from stackserve.app import Gateway, Stop, open_gateway, run_until_stopped
from stackserve.configfile import load_settings
from stackserve.console import console, show_start
from stackserve.demo.base import ensure_demo_base
from stackserve.demo.progress import console_report
from stackserve.folders import adapter_store_root, log_root
from stackserve.locations import DEMO_BASE, locate
from stackserve.logs import set_up_logging, worker_log
from stackserve.settings import Settings


async def serve(file: Path, overrides: Sequence[str], *, log_level: str, verbose: bool) -> int:
    """Serve the groups of a configuration file until SIGTERM or Ctrl-C. Returns the exit code."""
    settings = load_settings(file, overrides)
    async with open_server(settings, file, log_level=log_level, verbose=verbose) as gateway:
        stop = Stop.by_signals()
        console.print(
            f"listening on http://{settings.server.host}:{gateway.port}; /readyz says what is loading"
        )
        showing = asyncio.create_task(show_start(gateway))
        await run_until_stopped(gateway, settings.server.drain_seconds, stop)
        showing.cancel()
    return 0


@asynccontextmanager
async def open_server(
    settings: Settings, file: Path, *, log_level: str, verbose: bool
) -> AsyncIterator[Gateway]:
    """The gateway for a configuration, with the demo's base made and logging set up."""
    if any(group.base.path == DEMO_BASE for group in settings.groups):
        with console_report() as report:
            await asyncio.to_thread(ensure_demo_base, progress=report)
    groups = [group.name for group in settings.groups]
    set_up_logging(log_level, log_root(), groups, echo_workers=verbose)
    for group in groups:
        log = worker_log(log_root(), group)
        console.print(Text(f"{group}: the engine's log is {log}"), soft_wrap=True)
    store = AdapterStore(adapter_store_root())
    async with open_gateway(
        settings, partial(locate, config_file=file), store.import_adapter
    ) as gateway:
        yield gateway
