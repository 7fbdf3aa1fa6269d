"""A run as tables, and as a file that the tables and plots can be made from again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.adapters.headlines import Headline
from benchmarks.adapters.player import Counts
from benchmarks.adapters.record import Reading, Record, Removal
from benchmarks.adapters.scenes import Part
from benchmarks.adapters.summary import Summary, summarise
from benchmarks.adapters.variants import Variant
from benchmarks.machine import Provenance
from benchmarks.ratios import Spread

WRONG = (
    "wrong answers: of a sample, those that were other in company than alone in the same engine;"
    " waits of requests that were given up count until then."
)


@dataclass(frozen=True)
class Column:
    """A figure as a column: what it is multiplied by, and its decimals. `spread` shows its range too."""

    figure: str
    title: str
    scale: float = 1.0
    digits: int = 0
    spread: bool = False

    def cell(self, figures: dict[str, Spread]) -> str:
        found = figures.get(self.figure)
        if found is None or found.median != found.median:  # NaN
            return ""
        low, middle, high = (
            f"{value * self.scale:,.{self.digits}f}"
            for value in (found.low, found.median, found.high)
        )
        return f"{middle} ({low} to {high})" if self.spread else middle


LOADS = (Column("loads_per_second", "loads/s", digits=1), Column("reads_per_second", "reads/s", digits=1))  # fmt: skip
SERVED = (
    Column("tokens_per_second", "tokens/s (min to max)", spread=True),
    Column("rows", "rows at once", digits=1),
    Column("ttft_p50", "first token p50, s", digits=2),
    Column("ttft_p99", "p99", digits=2),
    Column("jain", "Jain", digits=2),
    *LOADS,
    Column("unanswered", "given up"),
)
COLUMNS = {
    Part.POPULARITY: SERVED,
    Part.THRASH: SERVED,
    Part.STARVATION: (
        Column("hot_tokens_per_second", "hot tokens/s (min to max)", spread=True),
        Column("cold_wait", "cold's first token, s (min to max)", digits=2, spread=True),
        Column("cold_answered", "answered", digits=1),
    ),
    Part.SCHEDULE: (
        Column("schedule_p50", "schedule() p50, ms (min to max)", 1e3, 3, spread=True),
        Column("schedule_max", "longest, ms", 1e3, 3),
        Column("add", "add_request(), µs", 1e6, 1),
        Column("rows", "rows at once", digits=1),
    ),
    Part.LOADS: (
        Column("itl_p50", "between tokens p50, ms", 1e3, 1),
        Column("itl_p90", "p90", 1e3, 1),
        Column("itl_p99", "p99 (min to max)", 1e3, 1, spread=True),
        Column("itl_max", "longest", 1e3, 1),
        *LOADS,
    ),
}


def part_columns(part: Part) -> tuple[str, ...]:
    checked = () if part is Part.SCHEDULE else ("wrong answers",)
    return ("variant", *(column.title for column in COLUMNS[part]), *checked)


def part_rows(part: Part, summaries: Sequence[Summary]) -> Iterator[tuple[str, ...]]:
    """A heading and a line for each scene."""
    columns = part_columns(part)
    mine = [each for each in summaries if each.part == part]
    for scene, group in groupby(mine, key=lambda each: each.scene):
        yield ()
        yield (f"[bold]{scene}[/]", *[""] * (len(columns) - 1))
        for each in group:
            cells = [column.cell(dict(each.figures)) for column in COLUMNS[part]]
            checked = () if part is Part.SCHEDULE else (answers(each.checks),)
            yield (f"  {each.variant}", *cells, *checked)


def answers(counts: Counts) -> str:
    if not counts.checked:
        return "not checked"
    if counts.without_effect == counts.checked:
        return "[red]adapters without effect[/]"
    if counts.wrong:
        return f"[red]{counts.wrong} of {counts.checked}[/]"
    return f"none of {counts.checked}"


DECILE_COLUMNS = ("first token, s, by tenths", *(f"{tenth * 10} %" for tenth in range(1, 11)))


def decile_rows(summaries: Sequence[Summary]) -> Iterator[tuple[str, ...]]:
    """The wait of each tenth of the requests, those of the most popular adapters first."""
    with_deciles = [each for each in summaries if each.deciles]
    for scene, group in groupby(with_deciles, key=lambda each: each.scene):
        yield ()
        yield (f"[bold]{scene}[/]", *[""] * (len(DECILE_COLUMNS) - 1))
        for each in group:
            missing = [""] * (len(DECILE_COLUMNS) - 1 - len(each.deciles))
            for place, name in enumerate(("p50", "p99")):
                cells = [f"{tenth[place]:.2f}" for tenth in each.deciles]
                yield (f"  {each.variant}, {name}", *cells, *missing)


REMOVED_COLUMNS = ("variant", "evicted from", "its request", "another beside it", "one afterwards")


def removed_rows(removals: Sequence[Removal]) -> Iterator[tuple[str, ...]]:
    for each in removals:
        became = (each.answer, each.company, each.afterwards)
        yield each.variant, each.evicted_from, *(_shortened(words) for words in became)


def _shortened(words: str, most: int = 44) -> str:
    """results.json has all of it."""
    return words if len(words) <= most else f"{words[: most - 1]}…"


def headline_columns(variants: Sequence[Variant]) -> tuple[str, ...]:
    return ("what it must reach", *variants, "needed", "aim", "reached")


def headline_rows(
    found: Sequence[Headline], variants: Sequence[Variant]
) -> Iterator[tuple[str, ...]]:
    for each in found:
        values = [each.values.get(variant, "") for variant in variants]
        missed = each.reached == "missed"
        yield (each.name, *values, each.needed, each.aim, f"[red]{each.reached}[/]" if missed else each.reached)  # fmt: skip


@dataclass(frozen=True)
class Recorded:
    """A run as results.json holds it."""

    provenance: Provenance
    settings: dict[str, Any]
    record: Record
    headlines: tuple[Headline, ...]

    def write(self, path: Path) -> None:
        summary = [asdict(each) for each in summarise(self.record.readings)]
        body = {"benchmark": "adapters", **asdict(self), "summary": summary}
        path.write_text(json.dumps(body, indent=1) + "\n")


def read_results(path: Path) -> Record:
    """The record of a results.json."""
    body = json.loads(path.read_text())["record"]
    readings = [
        Reading(
            **each
            | {
                "deciles": tuple((p50, p99) for p50, p99 in each["deciles"]),
                "checks": Counts(**each["checks"]),
            }
        )
        for each in body["readings"]
    ]
    removals = [Removal(**each) for each in body["removals"]]
    return Record(**body | {"readings": readings, "removals": removals})
