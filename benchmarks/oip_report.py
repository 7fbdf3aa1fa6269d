"""A run as tables, as the few figures that must be reached, and as results.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.adapters.headlines import Goal
from benchmarks.machine import Provenance
from benchmarks.oip_answers import Verdict
from benchmarks.oip_memory import Memory
from benchmarks.oip_models import ZOO_BYTES, Encoding
from benchmarks.oip_peers import MLSERVER, TRITON
from benchmarks.oip_rounds import (
    HALF_LOAD,
    HALF_LOAD_CELLS,
    PLAIN,
    THROUGHPUT,
    ZIPF,
    Cell,
    Reading,
)
from benchmarks.oip_targets import OURS
from benchmarks.ratios import Ratio, paired_ratio, spread

SMALL = Cell(PLAIN, 1, Encoding.JSON).title
MIB = 1 << 20
QUIET = 0.2
"""Cores that other programs may take before a run says so; starting the generator takes some."""


@dataclass
class ZooMemory:
    """In bytes: of a server's workers, or of all of it where it has no `budget` and holds every model.
    `empty`: before the first request.
    """

    empty: int
    budget: int | None = None
    used: Memory = field(default_factory=Memory)

    @property
    def over_budget(self) -> float | None:
        """By what share the most that models took was over the budget; the workers' own memory, as
        they were without a model, is not the models'.
        """
        if self.budget is None:
            return None
        return (self.used.highest - self.empty) / self.budget - 1

    @property
    def models_held(self) -> float | None:
        """At most at once, by their size alone."""
        return None if self.budget is None else (self.used.highest - self.empty) / ZOO_BYTES


@dataclass
class Record:
    """What a run has found, as it grows. `failures`: why a server was left out."""

    readings: list[Reading] = field(default_factory=list)
    memory: dict[str, ZooMemory] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    servers: dict[str, str] = field(default_factory=dict)
    """Their versions as they tell them."""
    complete: bool = False


COLUMNS = ("server", "requests/s (min to max)", "p50, ms", "p99, ms (min to max)", "ours ÷ it",
           "added p99", "generator", "others", "not right")  # fmt: skip
LEGEND = (
    "ours ÷ it: requests/s, turn by turn; added p99: over the mean that the worker needed, ms;"
    " generator, others: cores that the load generator and other programs took."
)


def rows(readings: Sequence[Reading], part: str) -> Iterator[tuple[str, ...]]:
    """A heading for each kind of request, and a line for each server."""
    mine = [each for each in readings if each.part == part]
    for cell in dict.fromkeys(each.cell for each in mine):
        yield ()
        yield (f"[bold]{cell}[/]", *[""] * (len(COLUMNS) - 1))
        of_cell = [each for each in mine if each.cell == cell]
        for target in dict.fromkeys(each.target for each in of_cell):
            turns = [each for each in of_cell if each.target == target]
            ratio = None if target == OURS else rate_ratio(of_cell, part, cell, target)
            yield (f"  {target}", *_cells(turns, ratio))


def _cells(turns: Sequence[Reading], ratio: Ratio | None) -> Iterator[str]:
    rate = spread([each.rate for each in turns])
    p99 = spread([each.p99 * 1e3 for each in turns])
    p50 = spread([each.p50 * 1e3 for each in turns]).median
    added = [each.added_p99 * 1e3 for each in turns if each.added_p99 is not None]
    yield f"{rate.median:,.0f} ({rate.low:,.0f} to {rate.high:,.0f})"
    yield f"{p50:.2f}"
    yield f"{p99.median:.2f} ({p99.low:.2f} to {p99.high:.2f})"
    yield ratio.in_words if ratio else ""
    yield f"{spread(added).median:.2f}" if added else ""
    yield f"{spread([each.generator_cpu for each in turns]).median:.2f}"
    yield f"{spread([each.elsewhere for each in turns]).median:.2f}"
    yield verdict_of(turns).in_words


def disturbance(readings: Sequence[Reading]) -> str:
    """A sentence where other programs took cores from what was measured, else empty."""
    found = [each.elsewhere for each in readings]
    most = max(found, default=0.0)
    if most <= QUIET:
        return ""
    return (
        f"Other programs took {spread(found).median:.2f} cores, and up to {most:.2f}, from what was measured:"
        " no figures to quote, ratios neither, as one process feels that less than two do."
    )


def rate_ratio(readings: Sequence[Reading], part: str, cell: str, peer: str) -> Ratio | None:
    """Ours over the peer's, round by round; at half load there is nothing to compare."""
    if part == HALF_LOAD:
        return None
    rates: dict[str, dict[int, float]] = {OURS: {}, peer: {}}
    for each in readings:
        if (each.part, each.cell) == (part, cell) and each.target in rates and each.rate:
            rates[each.target][each.round] = each.rate
    return paired_ratio(rates[OURS], rates[peer])


def verdict_of(turns: Sequence[Reading]) -> Verdict:
    total = Verdict()
    for each in turns:
        total.add(each.verdict)
    return total


MEMORY_COLUMNS = ("memory, MiB", "without models", "at most", "budget", "over it", "models by size")  # fmt: skip


def memory_rows(memory: dict[str, ZooMemory]) -> Iterator[tuple[str, ...]]:
    for target, each in memory.items():
        over = each.over_budget
        yield (
            target,
            f"{each.empty / MIB:,.0f}" if each.budget else "",
            f"{each.used.highest / MIB:,.0f}",
            f"{each.budget / MIB:,.0f}" if each.budget else "all models loaded",
            "" if over is None else f"{over:+.1%}",
            "" if each.models_held is None else f"{each.models_held:.1f}",
        )


@dataclass(frozen=True)
class Headline:
    name: str
    value: float
    in_words: str
    goal: Goal

    @property
    def row(self) -> tuple[str, ...]:
        reached = self.goal.verdict(self.value)
        return (self.name, self.in_words, *self.goal.in_words, f"[red]{reached}[/]" if reached == "missed" else reached)  # fmt: skip


HEADLINE_COLUMNS = ("what it must reach", "found", "needed", "aim", "reached")
OVER_MLSERVER = Goal(2, 5, more_is_better=True, digits=1)
OVER_TRITON = Goal(0.5, 1, more_is_better=True, digits=1)
ADDED = Goal(3, 1, more_is_better=False, digits=0)
WRONG = Goal(0, 0, more_is_better=False, digits=0)
OVER_BUDGET = Goal(15, 5, more_is_better=False, digits=0)


def headlines(record: Record) -> Iterator[Headline]:
    """Those that the run has figures for."""
    for peer, goal in ((MLSERVER.name, OVER_MLSERVER), (TRITON.name, OVER_TRITON)):
        ratio = rate_ratio(record.readings, THROUGHPUT, SMALL, peer)
        if ratio:
            name = f"small ONNX model, requests/s, {OURS} / {peer}"
            yield Headline(name, ratio.median, ratio.in_words, goal)
    for cell in HALF_LOAD_CELLS:
        added = [
            each.added_p99 * 1e3
            for each in record.readings
            if (each.part, each.cell, each.target) == (HALF_LOAD, cell.title, OURS)
            and each.added_p99 is not None
        ]
        if added:
            name = f"p99 added by the gateway at half load, ms; {cell.title}"
            found = spread(added)
            words = f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})"
            yield Headline(name, found.median, words, ADDED)
    zipf = [each for each in record.readings if (each.part, each.target) == (ZIPF, OURS)]
    if zipf:
        found_zipf = verdict_of(zipf)
        bad = found_zipf.wrong + found_zipf.unknown
        words = f"{bad} of {bad + found_zipf.right:,}"
        if found_zipf.failed:
            words += f", and {sum(found_zipf.failed.values())} failed"
        yield Headline("200-model Zipf mix, wrong answers", bad, words, WRONG)
    memory = record.memory.get(OURS)
    if memory and memory.over_budget is not None:
        percent = memory.over_budget * 100
        yield Headline("RSS over the byte budget, %", percent, f"{percent:+.1f}", OVER_BUDGET)


def write(path: Path, source: Provenance, settings: dict[str, Any], record: Record) -> None:
    body = {
        "benchmark": "oip",
        "provenance": asdict(source),
        "settings": settings,
        **asdict(record),
        "headlines": [
            {"name": each.name, "value": each.value, "found": each.in_words}
            for each in headlines(record)
        ],
    }
    path.write_text(json.dumps(body, indent=1) + "\n")
