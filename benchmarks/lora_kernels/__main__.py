"""`python -m benchmarks.lora_kernels`: runs the grid and reports it, also when interrupted."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field

import torch

from benchmarks.lora_kernels.clock import measure_limits
from benchmarks.lora_kernels.contenders import usable
from benchmarks.lora_kernels.grid import Limits, cases_of
from benchmarks.lora_kernels.measure import Bench, Timing, measure
from benchmarks.lora_kernels.options import Options, parse
from benchmarks.lora_kernels.report import Recorded, columns, overall, table_rows
from benchmarks.machine import Machine, Provenance, provenance
from benchmarks.progress import counted_steps
from benchmarks.table import print_table

INTERRUPTED = 130
MOST_COLD_BYTES = 2**28


@dataclass
class Record:
    """What a run has found so far: an interrupted run still has a report."""

    timings: list[Timing] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    complete: bool = False


def main() -> int:
    options = parse()
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "lora_kernels: --device cuda: this torch sees no GPU; use --device cpu", file=sys.stderr
        )
        return 2
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as failed:
        print(f"lora_kernels: --out {options.out}: {failed.strerror}", file=sys.stderr)
        return 2
    source = provenance()
    limits = measure_limits(options.device)
    record = Record()
    try:
        _run(options, limits, source.machine, record)
    except KeyboardInterrupt:
        print("lora_kernels: interrupted; the report holds what was measured", file=sys.stderr)
    _report(options, source, limits, record)
    wrong = any(not timing.is_right for timing in record.timings)
    return int(wrong) if record.complete else INTERRUPTED


def _run(options: Options, limits: Limits, machine: Machine, record: Record) -> None:
    cases = cases_of(options.shapes, options.rows, options.adapters, options.ranks)
    bench = Bench(options.device, options.repeats, cold_bytes(machine, options.device))
    with counted_steps(len(cases)) as steps, torch.inference_mode():
        for case in cases:
            steps.begin(case.title)
            makers, reasons = usable(options.contenders, case)
            record.left_out |= reasons
            record.timings += measure(case, makers, bench, limits.floor_seconds(case))
            steps.done()
    record.complete = True


def cold_bytes(machine: Machine, device: str) -> int:
    """Weights beyond this size are in no cache. A virtual machine may name the whole host's cache."""
    if device == "cuda" or not machine.cache_bytes:
        return MOST_COLD_BYTES
    return min(machine.cache_bytes, MOST_COLD_BYTES)


def _report(options: Options, source: Provenance, limits: Limits, record: Record) -> None:
    device = torch.cuda.get_device_name() if options.device == "cuda" else source.machine.in_words
    print(f"{device}; {source.short_commit}")
    print(
        f"measured limits: {limits.bytes_per_second / 1e9:.1f} GB/s,"
        f" {limits.flops_per_second / 1e12:.2f} TFLOP/s in bf16; {torch.get_num_threads()} threads"
    )
    for name, reason in record.left_out.items():
        print(f"left out: {name} ({reason})")
    if record.timings:
        print_table(columns(record.timings[0].contender), table_rows(record.timings))
    for name, figures in overall(record.timings).items():
        print(
            f"{name}: {figures['geometric_mean']:.3f} of the time of {record.timings[0].contender} in"
            f" the geometric mean of {figures['cases']} cases, at worst {figures['worst']:.3f}"
            f" ({figures['worst_case']})"
        )
    settings = asdict(options) | {"out": str(options.out), "threads": torch.get_num_threads()}
    results = options.out / "results.json"
    Recorded(
        source, settings | {"device_name": device}, limits, record.complete, record.left_out,
        tuple(record.timings),
    ).write(results)  # fmt: skip
    print("written:", results)


if __name__ == "__main__":
    sys.exit(main())
