"""The generation thread: all that touches the models happens in it, one step after the other.

    what has come in → waiting rows → batches of one model each → a step of each batch in turn

So no answer waits for the end of another, but while all rows, or all adapter slots, are taken.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from stackserve.meters import AdapterMeters
from stackserve.protocol import AdaptersSnapshot, key_of
from stackserve.runtimes.peft.adapters import AdapterRefused
from stackserve.runtimes.peft.batch import Batch
from stackserve.runtimes.peft.residency import Adapters, UnknownModel
from stackserve.runtimes.peft.rows import Row

logger = logging.getLogger(__name__)

T = TypeVar("T")

THREAD_BROKE = 70
"""Exit code when the thread itself fails (EX_SOFTWARE): the gateway starts another worker."""


@dataclass(frozen=True)
class _Job:
    """Something else to do between two steps."""

    work: Callable[[], Any]
    done: Future[Any]

    def do(self) -> None:
        try:
            self.done.set_result(self.work())
        except Exception as error:  # noqa: BLE001  # it is raised where the result is awaited
            self.done.set_exception(error)


def next_rows(waiting: Sequence[Row], room: int, *, pads: bool) -> list[Row]:
    """The rows of the next batch: the one that waits longest, and those that may be computed with it.

    Where padding changes answers, only prompts of one length may.
    """
    first = waiting[0]
    alike = [
        row
        for row in waiting
        if row.model == first.model and (pads or len(row.prompt) == len(first.prompt))
    ]
    return alike[:room]


class Generation:
    """Runs until its process ends."""

    def __init__(
        self, adapters: Adapters, meters: AdapterMeters, most_rows: int, *, pads: bool
    ) -> None:
        self.adapters = adapters
        self._meters = meters
        self._most_rows = most_rows
        self._pads = pads
        self._inbox: queue.SimpleQueue[Row | _Job] = queue.SimpleQueue()
        self._waiting: list[Row] = []
        self._running: list[Batch] = []

    def start(self) -> None:
        """Begin, in a thread of its own."""
        threading.Thread(target=self._run, name="generation", daemon=True).start()

    def answer(self, row: Row) -> None:
        """Have a row answered; it tells itself what becomes of it."""
        self._inbox.put(row)

    def between_steps(self, work: Callable[[], T]) -> Future[T]:
        """Have something done in the thread."""
        done: Future[T] = Future()
        self._inbox.put(_Job(work, done))
        return done

    def snapshot(self) -> AdaptersSnapshot:
        """All that is counted. In the thread alone."""
        running = Counter(row.model for b in self._running for row in b.rows if not row.done)
        waiting = Counter(row.model for row in self._waiting)
        return self._meters.snapshot(self.adapters.facts(running, waiting))

    def _run(self) -> None:
        try:
            while True:
                self._take_in()
                self._begin_batches()
                self._running = [batch for batch in self._running if self._step(batch)]
        except BaseException:  # without the thread nobody is ever answered
            logger.exception("the generation thread broke")
            os._exit(THREAD_BROKE)

    def _take_in(self) -> None:
        """All that has come; while there is nothing else to do, wait for it."""
        idle = not self._running and not self._waiting
        while idle or not self._inbox.empty():
            item = self._inbox.get()
            idle = False
            if isinstance(item, _Job):
                item.do()
            else:
                self._meters.arrived(key_of(item.model))
                self._waiting.append(item)

    def _begin_batches(self) -> None:
        for row in self._waiting:
            if row.cancelled:
                self._meters.finished(key_of(row.model), "abort")
        self._waiting = [row for row in self._waiting if not row.cancelled]
        while self._waiting:
            room = self._most_rows - sum(len(batch.rows) for batch in self._running)
            rows = next_rows(self._waiting, room, pads=self._pads) if room > 0 else []
            if not rows or not self._begin(rows):
                return

    def _begin(self, rows: Sequence[Row]) -> bool:
        """Begin a batch; False when it has to wait for a slot."""
        name = rows[0].model
        try:
            model = self.adapters.take(name)
        except AdapterRefused as error:
            self._refuse(rows, f"the adapter cannot be loaded: {error}", 500)
            return True
        except UnknownModel:
            self._refuse(rows, f"The model `{name}` does not exist.", 404)
            return True
        if model is None and not self._running:
            self._refuse(rows, "all adapter slots are pinned", 503)
            return True
        if model is None:
            return False
        self._waiting = [row for row in self._waiting if row not in rows]
        now = time.monotonic()
        for row in rows:
            self._meters.admitted(key_of(name), now - row.arrived, len(row.prompt))
        self._running.append(Batch(model, rows))
        return True

    def _refuse(self, rows: Sequence[Row], message: str, status: int) -> None:
        self._waiting = [row for row in self._waiting if row not in rows]
        for row in rows:
            row.fail(message, status)
            self._meters.finished(key_of(row.model), "error")

    def _step(self, batch: Batch) -> bool:
        """A token for each of its rows; whether it goes on."""
        before = [len(row.answer) for row in batch.rows]
        try:
            goes_on = batch.step()
        except Exception as error:  # whatever the framework raises is of this batch alone
            logger.exception("a batch of %s failed", batch.model)
            batch.fail(f"{type(error).__name__}: {error}")
            goes_on = False
        for row, tokens in zip(batch.rows, before, strict=True):
            if len(row.answer) > tokens:
                self._count_token(row)
        if not goes_on:
            self.adapters.give_back(batch.model)
            for row in batch.rows:
                self._meters.finished(key_of(row.model), row.outcome)
        return goes_on

    def _count_token(self, row: Row) -> None:
        now = time.monotonic()
        ttft, gap = (now - row.arrived, None) if row.last is None else (None, now - row.last)
        self._meters.generated(key_of(row.model), 1, ttft=ttft, gap=gap)
        row.last = now
