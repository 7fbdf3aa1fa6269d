"""`python -m benchmarks.lora_tax`: runs the measurement and reports it, also when interrupted."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks import engine_child
from benchmarks.command import INTERRUPTED, measure_to_end, prepare
from benchmarks.lora_tax.cells import left_out
from benchmarks.lora_tax.fleet import Folders
from benchmarks.lora_tax.options import Options, parse
from benchmarks.lora_tax.plot import MISSING, can_plot, write_plot
from benchmarks.lora_tax.report import COLUMNS, WRONG, Recorded, summarise, table_rows
from benchmarks.lora_tax.run import Record, count_steps, run
from benchmarks.machine import Provenance, provenance
from benchmarks.progress import counted_steps
from benchmarks.table import print_table


def main() -> int:
    options = parse()
    base = prepare("lora_tax", options.out)
    if base is None:
        return 1
    if not can_plot():
        print(MISSING, file=sys.stderr)
    for phase, counts in left_out(options.phases, options.adapters).items():
        listed = ", ".join(map(str, counts))
        print(f"{phase.name}: no scenes of {listed} adapters, more than its rows", file=sys.stderr)
    source = provenance()
    record = Record()
    finished = measure_to_end("lora_tax", partial(_measure, options, base, record))
    _report(options, source, record)
    for kind, failure in record.failures.items():
        print(
            f"lora_tax: engine {kind} failed, and its targets with it: {failure}", file=sys.stderr
        )
    return int(bool(record.failures)) if finished else INTERRUPTED


def _measure(options: Options, base: Path, record: Record) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="lora-tax-", ignore_cleanup_errors=True) as scratch,
        counted_steps(count_steps(options)) as steps,
    ):
        run(options, Folders(base, Path(scratch), options.out), record, steps)


def _report(options: Options, source: Provenance, record: Record) -> None:
    results = options.out / "results.json"
    Recorded(
        provenance=source,
        settings=_settings(options),
        complete=record.complete,
        failures={str(kind): why for kind, why in record.failures.items()},
        readings=tuple(record.readings),
        checks=tuple(record.checks),
    ).write(results)
    written = [results]
    summaries = summarise(record.readings, record.checks)
    title = f"{source.machine.in_words}; {source.short_commit}; {options.rounds} rounds"
    if summaries:
        print(title)
        print_table(COLUMNS, table_rows(summaries))
        print(WRONG)
        if can_plot():
            written += write_plot(summaries, title, options.out)
    print("written:", *written)


def _settings(options: Options) -> dict[str, object]:
    """What was asked, and how the engines were started."""
    return {
        "phases": [asdict(phase) for phase in options.phases],
        "ranks": [asdict(ranks) for ranks in options.ranks],
        "adapters": options.adapters,
        "targets": [asdict(target) for target in options.targets],
        "rounds": options.rounds,
        "slots": max(options.adapters),
        "engine": engine_child.engine_arguments({"slots": 0, "eager": options.eager}),
    }


if __name__ == "__main__":
    sys.exit(main())
