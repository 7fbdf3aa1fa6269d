"""Which requests are computed next, and which of them together. No threads and no clock here."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from stackserve.runtimes.protocol import Batching

T = TypeVar("T")


@dataclass(slots=True)
class Job(Generic[T]):
    """A request in a line. Times are seconds of any monotonic clock."""

    what: T
    model: int
    rows: int
    alike: Hashable | None
    """Equal for requests that can be computed together; None for one that can be with no other."""
    arrived: float
    cancelled: bool = False


@dataclass
class Line(Generic[T]):
    """The waiting requests of one model, in the order in which they came."""

    batching: Batching
    jobs: deque[Job[T]] = field(default_factory=deque)
    running: int = 0
    """Batches of the model that are being computed."""


@dataclass(frozen=True)
class Look(Generic[T]):
    """What to do now: compute these, or look again at `again` or when there is news."""

    batch: tuple[Job[T], ...] = ()
    again: float | None = None


class Lines(Generic[T]):
    """The lines of all models, served in turn: a model that is asked a lot keeps no other one waiting
    for more than a batch. Its size is bounded by who fills it: the group's `max_in_flight`.
    """

    def __init__(self) -> None:
        self._lines: dict[int, Line[T]] = {}
        self._turns: deque[int] = deque()
        """Models with jobs, each once."""

    def open(self, model: int, batching: Batching) -> None:
        """From now on the model may have jobs."""
        self._lines[model] = Line(batching)

    def close(self, model: int) -> None:
        """The model has no jobs any more, and gets none."""
        self._lines.pop(model, None)

    def put(self, job: Job[T]) -> None:
        line = self._lines[job.model]
        if not line.jobs:
            self._turns.append(job.model)
        line.jobs.append(job)

    def take(self, now: float) -> Look[T]:
        """Take the next batch out of its line; `done` must be called for it."""
        again = None
        for _ in range(len(self._turns)):
            model = self._turns.popleft()
            line = self._lines[model]
            look = next_batch(line, now)
            if look.batch:
                line.running += 1
                _remove(line, look.batch)
            if line.jobs:
                self._turns.append(model)
            if look.batch:
                return look
            again = min(filter(None, (again, look.again)), default=None)
        return Look(again=again)

    def done(self, model: int) -> None:
        """A batch of the model was computed."""
        if model in self._lines:
            self._lines[model].running -= 1


def next_batch(line: Line[T], now: float) -> Look[T]:
    """The first request, with those behind it that are like it, up to the most rows. It waits for
    more of them at most `max_delay`, and not at all when it is the only one of its model.
    """
    first = line.jobs[0]
    if first.alike is None:
        return Look((first,))
    batch, rows = [first], first.rows
    for job in list(line.jobs)[1:] if len(line.jobs) > 1 else ():
        if job.alike == first.alike and rows + job.rows <= line.batching.max_rows:
            batch.append(job)
            rows += job.rows
    alone = len(line.jobs) == 1 and not line.running
    due = first.arrived + line.batching.max_delay
    if rows >= line.batching.max_rows or alone or now >= due:
        return Look(tuple(batch))
    return Look(again=due)


def _remove(line: Line[T], batch: tuple[Job[T], ...]) -> None:
    if len(batch) == 1:
        line.jobs.popleft()
        return
    taken = set(map(id, batch))
    line.jobs = deque(job for job in line.jobs if id(job) not in taken)
