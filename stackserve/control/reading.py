"""Reads a group beside the running server: in a thread, with progress, given up when nobody waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from stackserve.control.groups import StackedGroup
from stackserve.settings import GroupSettings

Progress = Callable[[int, int], None]
Read = Callable[[GroupSettings, Progress], StackedGroup]
"""Reads and validates a group; raises ArtifactRejected for its base."""


class ReadingStopped(Exception):
    """Ends the thread that reads adapters when nobody waits for it any more."""


async def read_in_thread(
    read: Read, settings: GroupSettings, report: Callable[[str], None]
) -> StackedGroup:
    """Read a group; `report` is told how far it is. Raises what `read` raises."""

    def progress(done: int, total: int) -> None:
        if given_up.is_set():
            raise ReadingStopped
        loop.call_soon_threadsafe(tell, f"reading adapters, {done} of {total}")

    def tell(step: str) -> None:
        if not given_up.is_set():
            report(step)

    loop, given_up = asyncio.get_running_loop(), threading.Event()
    try:
        return await asyncio.to_thread(read, settings, progress)
    finally:
        given_up.set()
