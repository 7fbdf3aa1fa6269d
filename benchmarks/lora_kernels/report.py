"""Timings as rows of a table, as a summary over all cases, and as a file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.lora_kernels.grid import Limits
from benchmarks.lora_kernels.measure import Timing
from benchmarks.machine import Provenance
from benchmarks.ratios import paired_ratio, spread

MICRO = 1e6


def columns(first: str) -> tuple[str, ...]:
    return ("case", "contender", "µs", "min to max", "of the floor", f"time / {first} [95%]")


def table_rows(timings: Sequence[Timing]) -> Iterator[tuple[str, ...]]:
    """A line between shapes; the case is named in its first row only."""
    shape = None
    for _, group in groupby(timings, key=_case):
        case = list(group)
        if case[0].shape != shape:
            shape = case[0].shape
            yield ()
            yield (f"[bold]{shape}[/]", "", "", "", "", "")
        for number, timing in enumerate(case):
            yield (_title(timing) if number == 0 else "", *_cells(timing, case[0]))


def _case(timing: Timing) -> tuple[str, int, int, str]:
    return timing.shape, timing.rows, timing.adapters, timing.ranks


def _title(timing: Timing) -> str:
    mark = "" if timing.cold else " *"
    return f"  {timing.rows} rows, {timing.adapters} adapters, rank {timing.ranks}{mark}"


def _cells(timing: Timing, first: Timing) -> tuple[str, ...]:
    if not timing.is_right:
        return timing.contender, f"[red]wrong by {timing.error:.2g}[/]", "", "", ""
    own = spread(timing.seconds)
    ratio = time_ratio(timing, first)
    return (
        timing.contender,
        f"{own.median * MICRO:,.1f}",
        f"{own.low * MICRO:,.1f} to {own.high * MICRO:,.1f}",
        f"{timing.floor_seconds / own.median:.0%}",
        ratio or "",
    )


def time_ratio(timing: Timing, first: Timing) -> str | None:
    """How the time compares with the first contender's, repeat by repeat."""
    ratio = paired_ratio(dict(enumerate(timing.seconds)), dict(enumerate(first.seconds)))
    return ratio.in_words if ratio else None


def overall(timings: Sequence[Timing]) -> dict[str, dict[str, Any]]:
    """By contender but the first: the geometric mean of its time ratios, and its worst case."""
    found: dict[str, list[tuple[float, str]]] = {}
    for _, group in groupby(timings, key=_case):
        first, *others = group
        for timing in others:
            pairs = dict(enumerate(timing.seconds)), dict(enumerate(first.seconds))
            if ratio := paired_ratio(*pairs):
                case = f"{timing.shape},{_title(timing).strip(' *')}"
                found.setdefault(timing.contender, []).append((ratio.median, case))
    return {
        name: {
            "geometric_mean": math.exp(sum(math.log(r) for r, _ in ratios) / len(ratios)),
            "worst": max(ratios)[0],
            "worst_case": max(ratios)[1],
            "cases": len(ratios),
        }
        for name, ratios in found.items()
    }


@dataclass(frozen=True)
class Recorded:
    """A run as results.json holds it."""

    provenance: Provenance
    settings: dict[str, Any]
    limits: Limits
    complete: bool
    left_out: dict[str, str]
    timings: tuple[Timing, ...]

    def write(self, path: Path) -> None:
        body = {"benchmark": "lora_kernels", **asdict(self), "overall": overall(self.timings)}
        path.write_text(json.dumps(body, indent=1) + "\n")
