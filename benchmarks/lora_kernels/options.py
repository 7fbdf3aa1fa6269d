"""The command line of `python -m benchmarks.lora_kernels`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.flags import (
    Parser,
    default_folder,
    folder,
    names_of,
    ranks_of,
    whole_number,
    whole_numbers,
)
from benchmarks.lora_kernels.contenders import CONTENDERS, names_for
from benchmarks.lora_kernels.grid import ADAPTERS, MIXED, RANKS, ROWS, SHAPES, Shape

DESCRIPTION = """\
The LoRA op alone, y += scale · (x Aᵀ) Bᵀ by row, against the floor that memory and arithmetic set.
Every contender runs every case in turns, on weights that no cache holds; each answer is checked first.
"""
EPILOG = """\
The floor: each distinct adapter's weights and x read once, y read and written once, at the bandwidth that
is measured first; or the multiplications at the speed of a large bf16 product. The larger of both.
Cases marked * are too small to fill the last-level cache: their weights may be in it.

examples:
  python -m benchmarks.lora_kernels --smoke
  python -m benchmarks.lora_kernels --shapes smollm2.qkv,smollm2.down --rows 1,16 --ranks 16
  python -m benchmarks.lora_kernels --device cuda --shapes llama8b.qkv
"""


@dataclass(frozen=True)
class Options:
    shapes: tuple[Shape, ...]
    rows: tuple[int, ...]
    adapters: tuple[int, ...]
    ranks: tuple[str, ...]
    contenders: tuple[str, ...]
    device: str
    repeats: int
    out: Path


def parse(arguments: Sequence[str] | None = None) -> Options:
    """What to measure; a bad flag ends the program with one sentence and exit code 2."""
    parser = _parser()
    given = parser.parse_args(arguments)
    smoke = given.smoke
    contenders = given.contenders or names_for(given.device)
    if foreign := [name for name in contenders if CONTENDERS[name].device != given.device]:
        parser.error(
            f"argument --contenders: {foreign[0]!r} does not run on --device {given.device};"
            f" choose from {', '.join(names_for(given.device))}"
        )
    shapes = given.shapes or (("smollm2.qkv", "smollm2.down") if smoke else tuple(SHAPES))
    return Options(
        shapes=tuple(SHAPES[name] for name in shapes),
        rows=given.rows or ((1, 16) if smoke else ROWS),
        adapters=given.adapters or ((1, 4) if smoke else ADAPTERS),
        ranks=given.ranks or (("16", MIXED) if smoke else RANKS),
        contenders=contenders,
        device=given.device,
        repeats=given.repeats or (3 if smoke else 7),
        out=given.out or default_folder("lora_kernels"),
    )


def _parser() -> Parser:
    parser = Parser(
        prog="python -m benchmarks.lora_kernels",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--shapes", metavar="NAME,…", type=names_of(SHAPES), help=f"{', '.join(SHAPES)} (all)")
    add(
        "--rows",
        metavar="N,…",
        type=whole_numbers(1, 65536),
        help=f"rows of a batch {_shown(ROWS)}",
    )
    add(
        "--adapters",
        metavar="N,…",
        type=whole_numbers(1, 256),
        help=f"adapters of a batch, at most its rows {_shown(ADAPTERS)}",
    )
    add("--ranks", metavar="R,…", type=ranks_of(512, MIXED), help=f"their ranks {_shown(RANKS)}")
    add(
        "--contenders",
        metavar="NAME,…",
        type=names_of(CONTENDERS),
        help=f"{', '.join(CONTENDERS)} (all of the device; the first is what others are held against)",
    )
    add("--device", choices=("cpu", "cuda"), default="cpu", help="(cpu)")
    add("--repeats", type=whole_number(1, 1000), help="turns in each case (7; --smoke: 3)")
    add("--smoke", action="store_true", help="a few small cases, in seconds")
    add("--out", metavar="DIR", type=folder, help="folder for results.json")
    return parser


def _shown(values: Sequence[object]) -> str:
    return f"({','.join(map(str, values))})"
