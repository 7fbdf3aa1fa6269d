"""`stackserve serve FILE`: from a file to a server that runs until it is told to stop, and that reads
the file again when it is told to.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from rich.text import Text

from stackserve.adapters import AdapterStore
from stackserve.app import Gateway, Stop, open_gateway, run_until_stopped
from stackserve.configfile import COMMAND_LINE, load_settings
from stackserve.console import console, show_start
from stackserve.control.reload import Outcome
from stackserve.control.storefront import open_store
from stackserve.demo.base import ensure_demo_base
from stackserve.demo.progress import console_report
from stackserve.errors import ConfigError
from stackserve.folders import adapter_store_root, data_root, log_root
from stackserve.locations import DEMO_BASE, locate
from stackserve.logs import set_up_logging, worker_log
from stackserve.settings import Settings

logger = logging.getLogger(__name__)

TERMINAL = "/dev/tty"


async def serve(
    file: Path | None, overrides: Sequence[str], *, log_level: str, verbose: bool
) -> int:
    """Serve the groups of a configuration file, or the store, until SIGTERM or Ctrl-C. Returns the exit
    code.
    """
    settings = load_settings(file, overrides)
    async with open_server(settings, file, log_level=log_level, verbose=verbose) as gateway:
        stop = Stop.by_signals()
        load = partial(load_settings, file, overrides)
        updating = asyncio.create_task(update_when_asked(gateway, load, hear_hangups(stop)))
        console.print(
            f"listening on http://{settings.server.host}:{gateway.port}; /readyz says what is loading"
        )
        if settings.server.store and not gateway.statuses():
            console.print("nothing is deployed yet; see docs/model-groups.md")
        showing = asyncio.create_task(show_start(gateway))
        await run_until_stopped(gateway, settings.server.drain_seconds, stop)
        showing.cancel()
        updating.cancel()
    return 0


def hear_hangups(stop: Stop) -> asyncio.Event:
    """From now on SIGHUP sets this event: a wish that the file be read again.

    A terminal that closes sends it too, and then it is a wish to stop, unless it was ignored before, as
    `nohup` does.
    """
    asked = asyncio.Event()
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    ends_with_terminal = not ignored and _has_terminal()

    def hung_up() -> None:
        if ends_with_terminal and not _has_terminal():
            stop.first.set()
        else:
            asked.set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hung_up)
    return asked


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal; not if that has been closed."""
    try:
        os.close(os.open(TERMINAL, os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


async def update_when_asked(
    gateway: Gateway, load: Callable[[], Settings], asked: asyncio.Event
) -> None:
    """Update the gateway each time that `asked` is set, one time after the other."""
    while True:
        await asked.wait()
        asked.clear()
        try:
            updates = await gateway.update(load)
        except ConfigError as error:
            logger.error("nothing was changed, because the file is wrong:\n%s", error.message)
            continue
        except Exception:  # the root of a task: the next time may be better
            logger.exception("the update broke")
            continue
        for each in updates:
            if each.outcome is not Outcome.NOT_LIVE:  # else the log has it
                console.print(Text(f"{each.group}: {each.sentence}", "green"), soft_wrap=True)


@asynccontextmanager
async def open_server(
    settings: Settings, file: Path | None, *, log_level: str, verbose: bool
) -> AsyncIterator[Gateway]:
    """The gateway for a configuration, with the demo's base made and logging set up."""
    if any(group.base.path == DEMO_BASE for group in settings.stacked):
        with console_report() as report:
            await asyncio.to_thread(ensure_demo_base, progress=report)
    groups = [group.name for group in settings.groups]
    set_up_logging(log_level, log_root(), echo_workers=verbose)
    for group in groups:
        log = worker_log(log_root(), group)
        console.print(Text(f"{group}: the engine's log is {log}"), soft_wrap=True)
    adapters = AdapterStore(adapter_store_root())
    find = partial(locate, config_file=file or COMMAND_LINE)
    with ExitStack() as stack:
        store = None
        if settings.server.store:
            opening = open_store(settings.server, data_root())
            store = await asyncio.to_thread(stack.enter_context, opening)
        async with open_gateway(settings, find, adapters.import_adapter, store=store) as gateway:
            yield gateway
