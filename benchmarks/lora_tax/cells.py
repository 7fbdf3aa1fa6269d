"""What is measured: targets, phases, and the scenes (phase, ranks, adapters) in which they meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.flags import ranks_of

SLOT_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as max_lora_rank."""

MAX_RANK = SLOT_RANKS[-1]
MIXED = "mixed"
MIXED_RANKS = (8, 16, 32, 64)


class EngineKind(StrEnum):
    """The processes behind the targets; several targets may ask one."""

    PLAIN = "plain"
    EAGER = "eager"
    MERGED = "merged"
    STOCK = "stock"
    STACKSERVE = "stackserve"

    @property
    def has_lora(self) -> bool:
        return self in (EngineKind.STOCK, EngineKind.STACKSERVE)


@dataclass(frozen=True)
class Target:
    """A way to serve a batch. Every `stride`-th row has an adapter; 0: none has."""

    name: str
    engine: EngineKind
    stride: int
    meaning: str


TARGETS = {
    target.name: target
    for target in (
        Target("base", EngineKind.PLAIN, 0, "vLLM, LoRA off, no plug-in: what all else is held against"),
        Target("eager", EngineKind.EAGER, 0, "the same, not compiled: on CPUs vLLM does not compile with LoRA"),
        Target("merged", EngineKind.MERGED, 0, "one adapter merged into the weights, LoRA off"),
        Target("stock", EngineKind.STOCK, 1, "vLLM with LoRA, no plug-in; all rows have adapters"),
        Target("stock-half", EngineKind.STOCK, 2, "the same; every second row is the base's"),
        Target("stackserve", EngineKind.STACKSERVE, 1, "with the plug-in; all rows have adapters"),
        Target("half", EngineKind.STACKSERVE, 2, "the same; every second row is the base's"),
        Target("idle", EngineKind.STACKSERVE, 0, "the same; all rows are the base's"),
    )
}  # fmt: skip
BASELINE = "base"
SMOKE_TARGETS = ("base", "stock-half", "stackserve", "half", "idle")


@dataclass(frozen=True)
class Phase:
    """A batch's shape. Decode's speed comes from the difference of a long and a one-token run."""

    name: str
    sequences: int
    prompt_tokens: int
    output_tokens: int

    @property
    def counted_tokens(self) -> int:
        """Tokens whose speed is reported."""
        each = self.output_tokens if self.is_decode else self.prompt_tokens
        return self.sequences * each

    @property
    def is_decode(self) -> bool:
        return self.output_tokens > 1


PHASES = {
    "decode": Phase("decode", sequences=16, prompt_tokens=32, output_tokens=64),
    "prefill": Phase("prefill", sequences=8, prompt_tokens=512, output_tokens=1),
}
SMOKE_PHASES = {
    "decode": Phase("decode", sequences=8, prompt_tokens=32, output_tokens=8),
    "prefill": Phase("prefill", sequences=4, prompt_tokens=128, output_tokens=1),
}


@dataclass(frozen=True)
class Ranks:
    """The ranks of a scene's adapters: adapter i has ranks[i % len]."""

    name: str
    ranks: tuple[int, ...]

    @property
    def slot_rank(self) -> int:
        """The smallest max_lora_rank that holds them all."""
        return next(rank for rank in SLOT_RANKS if rank >= max(self.ranks))

    def rank_of(self, adapter: int) -> int:
        return self.ranks[adapter % len(self.ranks)]


def ranks_up_to(most: int) -> Callable[[str], tuple[Ranks, ...]]:
    """Reads a flag: ranks with commas between them, each a number or `MIXED`."""
    names_in = ranks_of(most, MIXED)

    def parse(text: str) -> tuple[Ranks, ...]:
        return tuple(
            Ranks(name, MIXED_RANKS if name == MIXED else (int(name),)) for name in names_in(text)
        )

    return parse


@dataclass(frozen=True)
class Scene:
    """All targets meet in it, round by round."""

    phase: Phase
    ranks: Ranks
    adapters: int

    @property
    def title(self) -> str:
        return f"{self.phase.name}, rank {self.ranks.name}, {self.adapters} adapters"


def scenes_of(
    phases: Sequence[Phase], ranks: Sequence[Ranks], adapters: Sequence[int]
) -> tuple[Scene, ...]:
    """Every combination, those of one slot rank beside each other: they share their engines.

    A batch cannot hold more adapters than sequences, so such scenes are left out.
    """
    by_slot = sorted(ranks, key=lambda each: each.slot_rank)
    return tuple(
        Scene(phase, each, count)
        for each in by_slot
        for phase in phases
        for count in adapters
        if count <= phase.sequences
    )


def left_out(phases: Sequence[Phase], adapters: Sequence[int]) -> dict[Phase, tuple[int, ...]]:
    """The numbers of adapters that `scenes_of` leaves out."""
    over = {phase: tuple(n for n in adapters if n > phase.sequences) for phase in phases}
    return {phase: counts for phase, counts in over.items() if counts}


def by_slot_rank(scenes: Sequence[Scene]) -> Iterator[tuple[int, tuple[Scene, ...]]]:
    for rank in dict.fromkeys(scene.ranks.slot_rank for scene in scenes):
        yield rank, tuple(scene for scene in scenes if scene.ranks.slot_rank == rank)


def adapters_of_rows(target: Target, sequences: int, adapters: int) -> tuple[int | None, ...]:
    """The adapter of each row, None for the base: neighbours differ, as in a mixed batch."""
    if target.stride == 0:
        return (None,) * sequences
    last = target.stride - 1
    return tuple(
        row // target.stride % adapters if row % target.stride == last else None
        for row in range(sequences)
    )


def turn_order(targets: Sequence[Target], round_: int) -> tuple[Target, ...]:
    """Each round begins with another target, so that nobody always follows the same neighbour's heat."""
    start = round_ % len(targets)
    return (*targets[start:], *targets[:start])


def rows_to_check(sequences: int, most: int) -> tuple[int, ...]:
    """Up to `most` rows over the whole batch, of both parities: alternate rows may be the base's."""
    if sequences <= most:
        return tuple(range(sequences))
    spread = [number * sequences // most for number in range(most)]
    return tuple(sorted({row + (row + place) % 2 for place, row in enumerate(spread)}))
