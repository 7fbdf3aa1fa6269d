"""`python -m benchmarks.oip`: small models over the Open Inference Protocol, beside MLServer and Triton."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks.command import INTERRUPTED, measure_to_end
from benchmarks.http_load import LoadFailed, best_generator
from benchmarks.machine import Provenance, provenance
from benchmarks.oip_memory import all_bytes, sampled, workers_bytes
from benchmarks.oip_models import CLASSES, WIDTH, write_small_model, write_zoo
from benchmarks.oip_options import Options, parse
from benchmarks.oip_peers import PEERS, PeerFailed, set_up, targets
from benchmarks.oip_report import (
    COLUMNS,
    HEADLINE_COLUMNS,
    LEGEND,
    MEMORY_COLUMNS,
    MIB,
    Record,
    ZooMemory,
    disturbance,
    headlines,
    memory_rows,
    rows,
    write,
)
from benchmarks.oip_rounds import (
    BATCHED,
    CELLS,
    HALF_LOAD,
    HALF_LOAD_CELLS,
    PLAIN,
    THROUGHPUT,
    ZIPF,
    Reading,
    half_load_turns,
    most_taken,
    throughput_turns,
    zipf_turns,
)
from benchmarks.oip_servers import ServedModel, Server, ServerFailed, Target, running_server
from benchmarks.oip_targets import OURS, ours
from benchmarks.progress import Steps, counted_steps
from benchmarks.table import print_table

SMALL_MEMORY_MIB = 256
NAME = "oip"


def main() -> int:
    options = parse()
    if options.set_up:
        return _set_up(options.peers)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    best_generator()
    source = provenance()
    record = Record()
    measured = targets_of(options, record)
    finished = measure_to_end(NAME, partial(_measure, options, measured, record))
    _report(options, source, record)
    for target, failure in record.failures.items():
        print(f"{NAME}: {target}: {failure}", file=sys.stderr)
    return int(not record.complete) if finished else INTERRUPTED


def _set_up(peers: Path) -> int:
    try:
        for step in set_up(peers):
            print(step, flush=True)
    except (PeerFailed, OSError) as failed:
        print(f"{NAME}: {failed}", file=sys.stderr)
        return 1
    return 0


def targets_of(options: Options, record: Record) -> tuple[Target, ...]:
    """Ours and the peers that are set up; of the others the record says that they are missing."""
    there = {each.name: each for each in targets(options.peers)}
    for peer in PEERS:
        if peer.name in options.targets and peer.name not in there:
            record.failures[peer.name] = (
                f"left out, as it is not in {peer.environment(options.peers)}; "
                "`python -m benchmarks.oip --set-up` installs it"
            )
    there[OURS] = ours(SMALL_MEMORY_MIB)
    return tuple(there[name] for name in options.targets if name in there)


def _measure(options: Options, measured: Sequence[Target], record: Record) -> None:
    encodings = {each.name: each.encodings for each in measured}
    zipf = zipf_targets(options, measured)
    turns = sum(cell.encoding in each for each in encodings.values() for cell in CELLS)
    turns += sum(cell.encoding in each for each in encodings.values() for cell in HALF_LOAD_CELLS)
    total = turns * ("small" in options.parts) + len(zipf) * ("zipf" in options.parts)
    with counted_steps(total * options.rounds) as steps, tempfile.TemporaryDirectory() as scratch:
        if "small" in options.parts:
            _small(options, measured, record, steps, Path(scratch))
        if "zipf" in options.parts and zipf:
            _zipf(options, zipf, record, steps, Path(scratch))
    record.complete = not (record.failures.keys() & {each.name for each in measured})


def zipf_targets(options: Options, measured: Sequence[Target]) -> tuple[Target, ...]:
    return tuple(
        ours(options.zoo_memory_mib) if each.name == OURS else each
        for each in measured
        if each.name == OURS or options.zoo_peers
    )


def _small(
    options: Options, measured: Sequence[Target], record: Record, steps: Steps, scratch: Path
) -> None:
    folder = scratch / "small"
    write_small_model(folder)
    models = [ServedModel(PLAIN, folder, CLASSES), ServedModel(BATCHED, folder, CLASSES, True)]
    with ExitStack() as stack:
        servers = _started(stack, measured, models, (scratch, options.out), record, steps)
        if not servers:
            return
        times = (options.rounds, options.turn_seconds)
        _take(throughput_turns(servers, *times), record, steps)
        rates = most_taken(record.readings)
        _take(half_load_turns(servers, rates, *times), record, steps)


def _zipf(
    options: Options, measured: Sequence[Target], record: Record, steps: Steps, scratch: Path
) -> None:
    steps.begin(f"writing {options.zoo_models} models")
    zoo = write_zoo(scratch / "zoo", options.zoo_models)
    models = [ServedModel(each.name, each.folder, WIDTH) for each in zoo]
    for target in measured:
        with ExitStack() as stack:
            places = (scratch / ZIPF, options.out)
            servers = _started(stack, [target], models, places, record, steps)
            for server in servers:
                budget = options.zoo_memory_mib * MIB if target.evicts else None
                measure = partial(workers_bytes if target.evicts else all_bytes, server.process)
                memory = ZooMemory(measure(), budget)
                record.memory[server.name] = memory
                with sampled(measure, memory.used):
                    turns = zipf_turns([server], zoo, options.rounds, options.turn_seconds)
                    _take(turns, record, steps)


def _started(
    stack: ExitStack,
    measured: Sequence[Target],
    models: Sequence[ServedModel],
    places: tuple[Path, Path],
    record: Record,
    steps: Steps,
) -> list[Server]:
    """Those that start. `places`: where their files go, and where their logs go."""
    files, logs = places
    servers = []
    for target in measured:
        steps.begin(f"starting {target.name} with {len(models)} models")
        log = logs / f"{target.name}-{len(models)}-models.log"
        try:
            started = running_server(target, models, files / target.name, log)
            servers.append(stack.enter_context(started))
            record.servers[target.name] = _version(servers[-1])
        except (ServerFailed, OSError) as failed:
            record.failures[target.name] = str(failed)
    return servers


def _take(turns: Iterator[Reading], record: Record, steps: Steps) -> None:
    """A server that cannot be asked any more ends the turns; what was measured stays."""
    try:
        for reading in turns:
            record.readings.append(reading)
            steps.begin(f"{reading.target}, {reading.cell}: {reading.rate:,.0f} requests/s")
            steps.done()
    except (LoadFailed, OSError) as failed:
        record.failures["turns"] = str(failed)


def _version(server: Server) -> str:
    told = server.told("/v2")
    return f"{told.get('name')} {told.get('version')}"


def _report(options: Options, source: Provenance, record: Record) -> None:
    results = options.out / "results.json"
    settings = asdict(options) | {
        "peers": str(options.peers),
        "out": str(options.out),
        "generator": Path(best_generator()[-1]).name,
    }
    write(results, source, settings, record)
    print(source.command)
    print(f"{source.machine.in_words}; {source.short_commit}; {options.rounds} rounds")
    print("; ".join(f"{name} is {version}" for name, version in record.servers.items()))
    for part in (THROUGHPUT, HALF_LOAD, ZIPF):
        if any(each.part == part for each in record.readings):
            print(f"\n{part}")
            print_table(COLUMNS, rows(record.readings, part))
    if record.readings:
        print(LEGEND)
        print(disturbance(record.readings))
    if record.memory:
        print_table(MEMORY_COLUMNS, memory_rows(record.memory))
    if found := tuple(headlines(record)):
        print_table(HEADLINE_COLUMNS, (each.row for each in found))
    print("written:", results)


if __name__ == "__main__":
    sys.exit(main())
