"""The threads of a worker that compute: each takes the next batch, when it is free."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from stackserve.runtimes.batching import Job, Lines, Look
from stackserve.runtimes.protocol import Batching
from stackserve.runtimes.recorder import Recorder

T = TypeVar("T")

Compute = Callable[[tuple[Job[T], ...]], None]


class Lanes(Generic[T]):
    """`number` threads, with the recorder's first slots; they end with the process."""

    def __init__(self, number: int, recorder: Recorder, compute: Compute[T]) -> None:
        self._recorder = recorder
        self._compute = compute
        self._lines: Lines[T] = Lines()
        self._lock = threading.Lock()
        self._news: SimpleQueue[None] = SimpleQueue()
        """One for each job: whoever gets one looks."""
        self.taken = 0
        """Batches, since the start."""
        for slot in range(number):
            threading.Thread(
                target=self._live, args=(slot,), name=f"lane {slot}", daemon=True
            ).start()

    def open(self, model: int, batching: Batching) -> None:
        with self._lock:
            self._lines.open(model, batching)

    def close(self, model: int) -> None:
        with self._lock:
            self._lines.close(model)

    def put(self, job: Job[T]) -> None:
        with self._lock:
            self._lines.put(job)
        self._news.put(None)

    def _live(self, slot: int) -> None:
        again: float | None = None
        while True:
            self._wait(again)
            look = self._look()
            again = look.again
            if look.batch:
                model = look.batch[0].model
                self._recorder.begin(slot, model)
                try:
                    self._compute(look.batch)
                finally:
                    self._recorder.end(slot)
                    with self._lock:
                        self._lines.done(model)
                again = (
                    0.0  # what was taken together leaves news behind, and more may be due by now
                )

    def _wait(self, again: float | None) -> None:
        timeout = None if again is None else max(0.0, again - time.monotonic())
        with contextlib.suppress(Empty):
            self._news.get(timeout=timeout)

    def _look(self) -> Look[T]:
        with self._lock:
            look = self._lines.take(time.monotonic())
            self.taken += bool(look.batch)
            return look
