"""What a server's processes take: memory, sampled while it works, and time of the cores."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stackserve.processes import resident_bytes

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 0.05


@dataclass
class Memory:
    """In bytes, of all processes together."""

    highest: int = 0
    last: int = 0
    samples: int = 0

    def add(self, num_bytes: int) -> None:
        self.last = num_bytes
        self.highest = max(self.highest, num_bytes)
        self.samples += 1


def workers_bytes(server: int) -> int:
    """The resident memory of all processes that descend from `server`, its own not counted."""
    return sum(resident_bytes(process) for process in descendants(server, parents()))


def all_bytes(server: int) -> int:
    """Its own counted, too: a server may have its models in itself."""
    return resident_bytes(server) + workers_bytes(server)


def descendants(process: int, parent_of: dict[int, int]) -> Iterable[int]:
    children = [child for child, parent in parent_of.items() if parent == process]
    for child in children:
        yield child
        yield from descendants(child, parent_of)


def parents() -> dict[int, int]:
    """The parent of every process."""
    processes = [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]
    return {process: int(fields[1]) for process in processes if (fields := _fields(process))}


def cpu_seconds(server: int) -> float:
    """Of all its processes so far, its own included."""
    return sum(_ticks(process) for process in (server, *descendants(server, parents()))) / TICKS


def machine_seconds() -> float:
    """Core-seconds in which the machine was not idle so far, its host's share of them included."""
    user, nice, system, _, _, irq, softirq, steal = map(
        int, (PROC / "stat").read_text().splitlines()[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / TICKS


def _ticks(process: int) -> int:
    fields = _fields(process)
    return int(fields[11]) + int(fields[12]) if fields else 0


def _fields(process: int) -> list[str]:
    """Those of its `stat` that follow its name; none when it has just ended."""
    try:
        return (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


@contextmanager
def sampled(measure: Callable[[], int], memory: Memory) -> Iterator[None]:
    """What `measure` returns, into `memory`, until the end of the context."""
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            memory.add(measure())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield
    finally:
        ended.set()
        sampler.join()
