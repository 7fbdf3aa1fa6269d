"""The command line of `python -m benchmarks.oip`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.flags import Parser, default_folder, folder, names_of, whole_number
from benchmarks.oip_peers import DEFAULT_FOLDER, PEERS
from benchmarks.oip_targets import OURS

PARTS = ("small", "zipf")
TARGETS = (OURS, *(each.name for each in PEERS))
ZOO_MODELS = 200
ZOO_MEMORY_MIB = 360
"""20 of them, as the ONNX runtime estimates them: 17.9 MiB each at the height of loading."""
DESCRIPTION = """\
Small models over the Open Inference Protocol, beside MLServer and Triton: the same load on each in turn.

parts:
  small  a perceptron of 4, 16 and 3 neurons in ONNX: what each server takes from 16 connections, in JSON and in
         binary, of 1 row without batching and of 8 rows with it; then latencies at half of that, at random times
  zipf   200 models of 8 MiB, the k-th most popular asked k times less often than the first, with memory for 20:
         wrong answers, and the memory of the workers
"""
EPILOG = """\
All servers and the load generator share the same cores. Every answer's numbers are compared with the right ones.
MLServer has no binary tensors over HTTP. Neither peer evicts models: with --zoo-peers both load all 200 at their
start, and Triton then runs 200 processes, for which it needs some 16 GB of memory.

examples:
  python -m benchmarks.oip --set-up
  python -m benchmarks.oip --quick
  python -m benchmarks.oip --parts zipf --rounds 5
"""


@dataclass(frozen=True)
class Options:
    parts: tuple[str, ...]
    set_up: bool
    peers: Path
    targets: tuple[str, ...]
    rounds: int
    turn_seconds: float
    cores: int | None
    zoo_models: int
    zoo_memory_mib: int
    zoo_peers: bool
    out: Path


def parse(arguments: Sequence[str] | None = None) -> Options:
    """What to measure; a bad flag ends the program with one sentence and exit code 2."""
    given = _parser().parse_args(arguments)
    return Options(
        parts=given.parts or PARTS,
        set_up=given.set_up,
        peers=given.peers,
        targets=given.targets or TARGETS,
        rounds=given.rounds or (2 if given.quick else 9),
        turn_seconds=0.7 if given.quick else 2.0,
        cores=given.cores,
        zoo_models=given.zoo_models,
        zoo_memory_mib=given.zoo_memory_mib,
        zoo_peers=given.zoo_peers,
        out=given.out or default_folder("oip"),
    )


def _parser() -> Parser:
    parser = Parser(
        prog="python -m benchmarks.oip",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--set-up", action="store_true", help="install the peers, and measure nothing")
    add(
        "--peers",
        metavar="DIR",
        type=folder,
        default=DEFAULT_FOLDER,
        help="where their environments are (%(default)s)",
    )
    add("--parts", metavar="NAME,…", type=names_of(PARTS), help="see above (both)")
    add(
        "--targets",
        metavar="NAME,…",
        type=names_of(TARGETS),
        help=f"servers to measure, of those that are there ({','.join(TARGETS)})",
    )
    add("--rounds", type=whole_number(1, 1000), help="turns of each server (9; --quick: 2)")
    add(
        "--quick", action="store_true", help="short turns, to see that it runs; no figures to quote"
    )
    add("--cores", metavar="N", type=whole_number(1, 4096), help="use only so many cores (all)")
    add(
        "--zoo-models",
        metavar="N",
        type=whole_number(1, 500),
        default=ZOO_MODELS,
        help="models in `zipf` (%(default)s)",
    )
    add(
        "--zoo-memory-mib",
        metavar="N",
        type=whole_number(16, 1_000_000),
        default=ZOO_MEMORY_MIB,
        help="memory for them in stackserve (%(default)s)",
    )
    add("--zoo-peers", action="store_true", help="measure `zipf` with the peers too")
    add(
        "--out",
        metavar="DIR",
        type=folder,
        help="folder for results.json and the servers' logs",
    )
    return parser
