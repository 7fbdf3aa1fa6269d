"""A flight recorder: what each thread of a worker works on, in memory that outlives the worker.

The worker writes a few bytes before and after each work, and the gateway reads them: after a crash, to
know which models were being loaded or executed; before one, to see a work that does not end.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SLOT = struct.Struct("<QQ")
"""The model's number plus one, or 0 when idle; CLOCK_MONOTONIC's nanoseconds when it began."""
IDLE = SLOT.pack(0, 0)


@dataclass(frozen=True)
class Work:
    """That something is done with a model, and for how long."""

    slot: int
    model: int
    seconds: float


def make_recorder(slots: int) -> int:
    """A file descriptor of memory for so many threads, all idle."""
    fd = os.memfd_create("stackserve-recorder")
    os.ftruncate(fd, slots * SLOT.size)
    return fd


class Recorder:
    """One end of it. Every thread of the worker has a slot of its own."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, os.fstat(fd).st_size)
        os.close(fd)

    @contextmanager
    def working(self, slot: int, model: int) -> Iterator[None]:
        """While the block runs, the slot says that this model is worked on."""
        self.begin(slot, model)
        try:
            yield
        finally:
            self.end(slot)

    def begin(self, slot: int, model: int) -> None:
        SLOT.pack_into(self._memory, slot * SLOT.size, model + 1, time.monotonic_ns())

    def end(self, slot: int) -> None:
        self._memory[slot * SLOT.size : (slot + 1) * SLOT.size] = IDLE

    def works(self) -> list[Work]:
        """What is worked on, or was when the worker died."""
        now = time.monotonic_ns()
        return [
            Work(slot, model - 1, max(0, now - began) / 1e9)
            for slot, (model, began) in enumerate(SLOT.iter_unpack(self._memory[:]))
            if model
        ]

    def close(self) -> None:
        self._memory.close()
