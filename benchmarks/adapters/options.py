"""The command line of `python -m benchmarks.adapters`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.adapters.scenes import Part
from benchmarks.adapters.sizes import FULL, QUICK, Sizes
from benchmarks.adapters.variants import DEFAULT, NOT_COMPILED, Variant
from benchmarks.flags import (
    Parser,
    default_folder,
    folder,
    names_of,
    whole_number,
    whole_numbers,
)
from benchmarks.lora_tax.cells import MIXED, MIXED_RANKS, Ranks, ranks_up_to

MAX_RANK = 64
READ_RANKS = ranks_up_to(MAX_RANK)
DESCRIPTION = """\
Many adapters, few slots: what do the scheduler and the residency of adapters decide? Plays the same
traffic through one engine of each variant, turn by turn, and prints speeds, waits and fairness.

variants:
"""
PARTS = """
parts:
  popularity  a power law (exponent 1) over 5, 100 and 1,000 adapters on 8 slots: all at once, for tokens/s;
              1,000 also at a rate that leaves room, for the time to the first token by popularity
  thrash      as many adapters as slots asked for evenly, then twice as many
  starvation  two adapters that are always asked on two slots, and one ask of a third
  schedule    the cost of one schedule() with up to 20,000 requests whose adapter has no slot; no model
  loads       the time between tokens of running answers, while adapters are loaded and without
  removed     an adapter's files are removed, it is evicted, then used: who fails
"""
EPILOG = f"""\
Engines: SmolLM2-135M in bf16, 16 sequences, prefix caching off, vLLM's AsyncLLM, greedy, no stop tokens.
All options are the same for all variants. {NOT_COMPILED}
Adapters are random, on all seven projections, each with its own weights; they are read from the page cache
where it holds them (--drop-page-cache: from the disk).

examples:
  python -m benchmarks.adapters --quick
  python -m benchmarks.adapters --parts schedule
  python -m benchmarks.adapters --parts popularity --ranks 8 --adapters 5,1000 --rounds 3
"""


@dataclass(frozen=True)
class Options:
    parts: tuple[Part, ...]
    variants: tuple[Variant, ...]
    ranks: tuple[Ranks, ...]
    sizes: Sizes
    eager: bool
    drop_page_cache: bool
    folders: Path | None
    out: Path


def parse(arguments: Sequence[str] | None = None) -> Options:
    """What to measure; a bad flag ends the program with one sentence and exit code 2."""
    given = _parser().parse_args(arguments)
    sizes = QUICK if given.quick else FULL
    if given.adapters:
        sizes = replace(sizes, adapters=given.adapters)
    if given.rounds:
        sizes = replace(sizes, rounds=given.rounds)
    if given.rate:
        sizes = replace(sizes, stream=float(given.rate))
    return Options(
        parts=tuple(Part(name) for name in given.parts or Part),
        variants=tuple(Variant(name) for name in given.variants or DEFAULT),
        ranks=given.ranks or READ_RANKS("16" if given.quick else f"8,{MIXED}"),
        sizes=sizes,
        eager=given.quick,
        drop_page_cache=given.drop_page_cache,
        folders=given.folders,
        out=given.out or default_folder("adapters"),
    )


def _parser() -> Parser:
    width = max(map(len, Variant))
    listed = "".join(f"  {variant:<{width}}  {variant.meaning}\n" for variant in Variant)
    parser = Parser(
        prog="python -m benchmarks.adapters",
        description=DESCRIPTION + listed + PARTS,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--parts", metavar="NAME,…", type=names_of(tuple(Part)), help="see above (all)")
    add(
        "--variants",
        metavar="NAME,…",
        type=names_of(tuple(Variant)),
        help=f"see above ({','.join(DEFAULT)})",
    )
    add("--rounds", type=whole_number(1, 1000), help=f"({FULL.rounds}; --quick: {QUICK.rounds})")
    add(
        "--adapters",
        metavar="N,…",
        type=whole_numbers(1, 100_000),
        help="numbers of adapters in `popularity` (5,100,1000; --quick: 5,40)",
    )
    add(
        "--rate",
        metavar="N",
        type=whole_number(1, 1000),
        help="requests per second in `thrash` and in the stream of `popularity`"
        f" ({FULL.stream:.0f}; --quick: {QUICK.stream:.0f})",
    )
    add(
        "--ranks",
        metavar="R,…",
        type=READ_RANKS,
        help=f"ranks in `popularity`; '{MIXED}' is {'/'.join(map(str, MIXED_RANKS))} in turn"
        f" (8,{MIXED}; --quick: 16); the other parts use 16",
    )
    add(
        "--quick",
        action="store_true",
        help="small and not compiled, to see that it runs; no figures to quote",
    )
    add(
        "--drop-page-cache",
        action="store_true",
        help="before each session let the kernel forget adapters' files",
    )
    add(
        "--folders",
        metavar="DIR",
        type=folder,
        help="keep the adapters here and use those that are there (else they are removed at the end)",
    )
    add(
        "--out",
        metavar="DIR",
        type=folder,
        help="folder for results.json, the plots and the engines' logs",
    )
    return parser
