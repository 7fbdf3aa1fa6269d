"""Process groups, as /proc shows them."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


def members_of(group: int) -> list[tuple[int, bool]]:
    """(pid, is it a resource tracker?) of each living process of a group.

    Python's resource tracker removes the shared memory that the other processes leave behind, once
    they are gone: it should be the last to go.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue  # it ended while we looked
        state, process_group = stat[0], int(stat[2])
        if process_group == group and state not in "ZX":
            found.append((int(entry.name), b"resource_tracker" in command))
    return found


def resident_bytes(pid: int | None = None) -> int:
    """Memory that a process holds now, this one's without a pid; 0 when it is gone."""
    try:
        with open(f"/proc/{pid or 'self'}/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def kill(pid: int) -> None:
    """SIGKILL a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
