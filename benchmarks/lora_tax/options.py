"""The command line of `python -m benchmarks.lora_tax`."""

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
    whole_number,
    whole_numbers,
)
from benchmarks.lora_tax.cells import (
    BASELINE,
    MAX_RANK,
    MIXED,
    MIXED_RANKS,
    PHASES,
    SMOKE_PHASES,
    SMOKE_TARGETS,
    TARGETS,
    Phase,
    Ranks,
    Target,
    ranks_up_to,
)

READ_RANKS = ranks_up_to(MAX_RANK)
DESCRIPTION = """\
What do LoRA adapters cost? Serves the same batches through several vLLM engines that live side by side
and take turns, round by round, and prints tokens per second and the ratio to `base` of the same round.

targets:
"""
EPILOG = """\
Engines: SmolLM2-135M in bf16, 16 sequences, prefix caching off, real vllm.LLM, greedy, no stop tokens.
decode:  16 sequences of 32 + 64 tokens; the time of a 1-token run is taken off.
prefill: 8 prompts of 512 tokens, 1 output token.
Adapters are random, on all seven projections, and lie in turn over the rows that have one.
An engine takes about 3 GiB of memory, and there are five of them with all targets.
Every answer is checked: a sample of rows must answer alone as in the batch, and all rows in every round
as in the first. The column `wrong answers` counts those that do not; it is a finding, not a crash.

examples:
  python -m benchmarks.lora_tax --smoke
  python -m benchmarks.lora_tax --phase decode --adapters 1,16 --ranks 16 --rounds 5
  python -m benchmarks.lora_tax --targets base,stackserve --phase prefill --ranks mixed --adapters 8
"""


@dataclass(frozen=True)
class Options:
    phases: tuple[Phase, ...]
    ranks: tuple[Ranks, ...]
    adapters: tuple[int, ...]
    targets: tuple[Target, ...]
    rounds: int
    eager: bool
    out: Path


def parse(arguments: Sequence[str] | None = None) -> Options:
    """What to measure; a bad flag ends the program with one sentence and exit code 2."""
    given = _parser().parse_args(arguments)
    phases = SMOKE_PHASES if given.smoke else PHASES
    chosen = given.phase or tuple(PHASES)
    targets = given.targets or (SMOKE_TARGETS if given.smoke else tuple(TARGETS))
    adapters = given.adapters or ((4,) if given.smoke else (1, 4, 8, 16))
    ranks = given.ranks or READ_RANKS("16" if given.smoke else f"8,16,64,{MIXED}")
    # What is held against `base` needs it.
    names = dict.fromkeys((BASELINE, *targets))
    return Options(
        phases=tuple(phases[name] for name in chosen),
        ranks=ranks,
        adapters=adapters,
        targets=tuple(TARGETS[name] for name in names),
        rounds=given.rounds or (2 if given.smoke else 5),
        eager=given.smoke,
        out=given.out or default_folder("lora_tax"),
    )


def _parser() -> Parser:
    width = max(map(len, TARGETS))
    listed = "\n".join(f"  {t.name:<{width}}  {t.meaning}" for t in TARGETS.values())
    parser = Parser(
        prog="python -m benchmarks.lora_tax",
        description=DESCRIPTION + listed,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--rounds", type=whole_number(1, 1000), help="rounds per scene (5; --smoke: 2)")
    add(
        "--adapters",
        metavar="N,…",
        type=whole_numbers(1, 16),
        help="how many adapters a batch mixes (1,4,8,16; --smoke: 4)",
    )
    add(
        "--ranks",
        metavar="R,…",
        type=READ_RANKS,
        help=f"their ranks; '{MIXED}' is {'/'.join(map(str, MIXED_RANKS))} in turn (8,16,64,{MIXED};"
        " --smoke: 16)",
    )
    add(
        "--targets",
        metavar="NAME,…",
        type=names_of(TARGETS),
        help=f"targets beside base, see above (all; --smoke: {','.join(SMOKE_TARGETS)})",
    )
    add("--phase", type=names_of(PHASES), metavar="NAME,…", help="decode, prefill (both)")
    add(
        "--smoke",
        action="store_true",
        help="the smallest size, not compiled, under 3 minutes; no figures to quote",
    )
    add(
        "--out",
        metavar="DIR",
        type=folder,
        help="folder for results.json, the plot and the engines' logs",
    )
    return parser
