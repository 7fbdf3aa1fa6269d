"""`python -m benchmarks.adapters`: runs the parts and reports them, also when interrupted."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks import engine_child
from benchmarks.adapters.headlines import headlines
from benchmarks.adapters.options import Options, parse
from benchmarks.adapters.plot import write_plots
from benchmarks.adapters.record import Record
from benchmarks.adapters.removal import count_removals, remove_and_ask
from benchmarks.adapters.report import (
    COLUMNS,
    DECILE_COLUMNS,
    REMOVED_COLUMNS,
    WRONG,
    Recorded,
    decile_rows,
    headline_columns,
    headline_rows,
    part_columns,
    part_rows,
    removed_rows,
)
from benchmarks.adapters.scenes import Part, Scene, loads, popularity, starvation, thrash
from benchmarks.adapters.schedule_cost import count_cases, time_schedule
from benchmarks.adapters.sessions import Workshop, count_sessions, play_scenes
from benchmarks.adapters.shelf import DiskFull, Shelf
from benchmarks.adapters.summary import summarise
from benchmarks.adapters.variants import NOT_COMPILED, OPTIONS
from benchmarks.command import INTERRUPTED, measure_to_end, prepare
from benchmarks.lora_tax.plot import MISSING, can_plot
from benchmarks.machine import Provenance, provenance
from benchmarks.progress import Steps, counted_steps
from benchmarks.table import print_table
from stackserve.adapters import BaseArchitecture


def main() -> int:
    options = parse()
    base = prepare("adapters", options.out)
    if base is None:
        return 1
    if not can_plot():
        print(MISSING, file=sys.stderr)
    source = provenance()
    record = Record()
    finished = measure_to_end("adapters", partial(_measure, options, base, record))
    _report(options, source, record)
    for engine, failure in record.failures.items():
        print(f"adapters: {engine}: ended early: {failure}", file=sys.stderr)
    return int(bool(record.failures)) if finished else INTERRUPTED


def scenes_of(options: Options) -> tuple[Scene, ...]:
    """The scenes of the chosen parts that play traffic."""
    sizes, chosen = options.sizes, options.parts
    made: list[Scene] = []
    if Part.POPULARITY in chosen:
        for ranks in options.ranks:
            made += popularity(sizes, ranks, sizes.adapters)
    made += thrash(sizes) if Part.THRASH in chosen else ()
    made += loads(sizes) if Part.LOADS in chosen else ()
    made += starvation(sizes) if Part.STARVATION in chosen else ()
    return tuple(made)


def _measure(options: Options, base: Path, record: Record) -> None:
    with _adapter_folder(options) as folder:
        shelf = Shelf(folder, BaseArchitecture.from_folder(base))
        workshop = Workshop(
            base,
            shelf,
            options.out,
            options.variants,
            options.sizes.rounds,
            options.eager,
            options.drop_page_cache,
        )
        try:
            _run(options, workshop, record)
        finally:
            record.adapters_on_disk, record.bytes_on_disk = shelf.size()


def _run(options: Options, workshop: Workshop, record: Record) -> None:
    scenes = scenes_of(options)
    total = count_sessions(scenes, len(options.variants), options.sizes.rounds)
    if Part.SCHEDULE in options.parts:
        total += count_cases(workshop, options.sizes)
    if Part.REMOVED in options.parts:
        total += count_removals(workshop)
    with counted_steps(total) as steps:
        try:
            _parts(options, scenes, workshop, record, steps)
        except DiskFull as full:
            record.failures["adapters on disk"] = str(full)
    record.complete = not record.failures


def _parts(
    options: Options, scenes: tuple[Scene, ...], workshop: Workshop, record: Record, steps: Steps
) -> None:
    if Part.SCHEDULE in options.parts:
        time_schedule(workshop, options.sizes, record, steps)
    if Part.REMOVED in options.parts:
        remove_and_ask(workshop, record, steps)
    play_scenes(scenes, workshop, record, steps)


@contextmanager
def _adapter_folder(options: Options) -> Iterator[Path]:
    if options.folders:
        yield options.folders
        return
    with tempfile.TemporaryDirectory(prefix="adapters-", ignore_cleanup_errors=True) as scratch:
        yield Path(scratch)


def _report(options: Options, source: Provenance, record: Record) -> None:
    found = headlines(record.readings, record.removals, options.ranks, options.sizes)
    results = options.out / "results.json"
    Recorded(source, _settings(options), record, found).write(results)
    written = [results]
    title = f"{source.machine.in_words}; {source.short_commit}; {options.sizes.rounds} rounds"
    print(source.command)
    print(title)
    if record.adapters_on_disk:
        size = record.bytes_on_disk / 1e9
        print(
            f"adapters on disk, those that were asked for: {record.adapters_on_disk:,}, {size:.1f} GB"
        )
    if record.readings:
        print("Not compiled, no variant: no figures to quote." if options.eager else NOT_COMPILED)
    _print_tables(options, record)
    if found:
        print_table(headline_columns(options.variants), headline_rows(found, options.variants))
    if record.readings and can_plot():
        written += write_plots(record, title, options.out)
    print("written:", *written)


def _print_tables(options: Options, record: Record) -> None:
    summaries = summarise(record.readings)
    for part in COLUMNS:
        if any(each.part == part for each in summaries):
            print(f"\n{part}")
            print_table(part_columns(part), part_rows(part, summaries))
    if any(each.deciles for each in summaries):
        print_table(DECILE_COLUMNS, decile_rows(summaries))
    if record.removals:
        print(f"\n{Part.REMOVED}")
        print_table(REMOVED_COLUMNS, removed_rows(record.removals))
    if summaries:
        print(WRONG)


def _settings(options: Options) -> dict[str, object]:
    """What was asked, and how the engines were started."""
    return {
        "parts": options.parts,
        "variants": {variant: variant.meaning for variant in options.variants},
        "ranks": [asdict(ranks) for ranks in options.ranks],
        "sizes": asdict(options.sizes),
        "drop_page_cache": options.drop_page_cache,
        "stackserve": OPTIONS,
        "engine": engine_child.engine_arguments({"slots": 0, "eager": options.eager}),
    }


if __name__ == "__main__":
    sys.exit(main())
