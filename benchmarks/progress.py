"""The bar on standard error: what is being done, how much is done, and about how long it still takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@dataclass
class Steps:
    """Counts steps; off a terminal it prints what begins, one line each."""

    bar: Progress
    task: TaskID
    plain: Console | None

    def begin(self, what: str) -> None:
        self.bar.update(self.task, description=what)
        if self.plain:
            task = self.bar.tasks[self.task]
            line = f"{task.completed:.0f} of {task.total:.0f}: {what}"
            self.plain.print(line, highlight=False, markup=False, soft_wrap=True)

    def done(self, count: int = 1) -> None:
        self.bar.advance(self.task, count)


@contextmanager
def counted_steps(total: int) -> Iterator[Steps]:
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        yield Steps(bar, bar.add_task("", total=total), None if console.is_terminal else console)
