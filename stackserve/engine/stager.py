"""Threads that read adapters and make them ready, while the engine computes."""

from __future__ import annotations

import os
import queue
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Generic, TypeVar

from stackserve.engine.adapter_host import Report, Staged, StageFailed

Weights = TypeVar("Weights")

MAX_REASON = 500


class Stager(Generic[Weights]):
    """Runs `load` for one adapter after the other in each of its threads. Every adapter is staged
    once at a time; who asks for more has its answer with the first.

    `load(source)` returns the weights and their size in bytes; what it raises becomes the reason.
    """

    def __init__(
        self,
        load: Callable[[object], tuple[Weights, int]],
        threads: int,
        describe: Callable[[object, BaseException], str] = lambda source, error: str(error),
    ) -> None:
        self._load = load
        self._describe = describe
        self._pool = ThreadPoolExecutor(threads, "stager", initializer=use_every_core)
        self._done: queue.SimpleQueue[tuple[Report, Weights | None]] = queue.SimpleQueue()
        self._under_way: set[int] = set()

    def stage(self, adapter_id: int, source: object) -> None:
        """Returns at once."""
        if adapter_id not in self._under_way:
            self._under_way.add(adapter_id)
            self._pool.submit(self._run, adapter_id, source)

    def poll(self) -> Sequence[tuple[Report, Weights | None]]:
        """What has ended since the last call; weights with a `Staged`, None with a `StageFailed`."""
        ended = []
        while True:
            try:
                ended.append(self._done.get_nowait())
            except queue.Empty:
                break
        self._under_way -= {report.id for report, _ in ended}
        return ended

    def close(self) -> None:
        """Waits for what is being read."""
        self._pool.shutdown(cancel_futures=True)

    def _run(self, adapter_id: int, source: object) -> None:
        began = time.perf_counter()
        try:
            weights, num_bytes = self._load(source)
        except BaseException as error:  # noqa: BLE001  # any way, a panic in compiled code too
            reason = type(error).__name__
            with suppress(Exception):
                reason = self._describe(source, error)[:MAX_REASON]
            self._done.put((StageFailed(adapter_id, reason), None))
        else:
            seconds = time.perf_counter() - began
            self._done.put((Staged(adapter_id, num_bytes, seconds), weights))


def use_every_core() -> None:
    """Let the calling thread run on any core of this process (on Linux, where threads have cores). vLLM
    binds the thread that began it to one core, the one that computes most.
    """
    if sys.platform == "linux":
        threads = map(int, os.listdir("/proc/self/task"))
        os.sched_setaffinity(0, set().union(*map(_cores_of, threads)))


def _cores_of(thread: int) -> set[int]:
    with suppress(OSError):  # it has ended
        return os.sched_getaffinity(thread)
    return set()
