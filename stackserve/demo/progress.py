"""What a person sees while the demo base is made: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import TaskID

Report = Callable[[str, float], None]
"""Called with a stage's description and the part of it that is done, 0.0 to 1.0."""


@contextmanager
def console_report() -> Iterator[Report]:
    """A `Report` that draws on standard error: one bar per stage, with the time it took."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    bars: dict[str, TaskID] = {}
    with Progress(
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as drawn:

        def report(stage: str, fraction: float) -> None:
            if stage not in bars:
                for earlier in bars.values():
                    drawn.update(earlier, completed=1.0)
                bars[stage] = drawn.add_task(stage, total=1.0)
                if not console.is_terminal:
                    console.print(stage, highlight=False, soft_wrap=True)
            drawn.update(bars[stage], completed=fraction)

        yield report
