"""What is measured: layer shapes, batches and ranks, and the floor that hardware sets under each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ELEMENT_BYTES = 2  # bf16
MIXED = "mixed"
MIXED_RANKS = (8, 16, 32, 64)
ROWS = (1, 4, 16, 64, 256, 4096)
ADAPTERS = (1, 4, 8, 32)
RANKS = ("8", "16", "64", MIXED)


@dataclass(frozen=True)
class Shape:
    """One layer: its input, and its output slices that lie side by side."""

    name: str
    in_features: int
    out_features: tuple[int, ...]

    def weights(self, rank: int) -> int:
        """Elements of one adapter's A and B of all slices."""
        return rank * (len(self.out_features) * self.in_features + sum(self.out_features))


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("smollm2.qkv", 576, (576, 192, 192)),
        Shape("smollm2.o", 576, (576,)),
        Shape("smollm2.gate_up", 576, (1536, 1536)),
        Shape("smollm2.down", 1536, (576,)),
        Shape("llama8b.qkv", 4096, (4096, 1024, 1024)),
        Shape("llama8b.o", 4096, (4096,)),
        Shape("llama8b.gate_up", 4096, (14336, 14336)),
        Shape("llama8b.down", 14336, (4096,)),
    )
}


@dataclass(frozen=True)
class Case:
    """One batch on one layer. Row i has adapter i % adapters, so neighbours differ."""

    shape: Shape
    rows: int
    adapters: int
    ranks: str

    def rank_of(self, adapter: int) -> int:
        if self.ranks != MIXED:
            return int(self.ranks)
        return MIXED_RANKS[adapter % len(MIXED_RANKS)]

    @property
    def slots_of_rows(self) -> tuple[int, ...]:
        return tuple(row % self.adapters for row in range(self.rows))

    @property
    def weight_bytes(self) -> int:
        """What the distinct adapters weigh, each at its own rank."""
        ranks = map(self.rank_of, range(self.adapters))
        return ELEMENT_BYTES * sum(self.shape.weights(rank) for rank in ranks)

    @property
    def moved_bytes(self) -> int:
        """The weights and x read once, y read and written once."""
        out = sum(self.shape.out_features)
        return self.weight_bytes + ELEMENT_BYTES * self.rows * (self.shape.in_features + 2 * out)

    @property
    def flops(self) -> int:
        """A multiplication and an addition for each row and each of its adapter's weights."""
        return 2 * sum(self.shape.weights(self.rank_of(slot)) for slot in self.slots_of_rows)

    @property
    def title(self) -> str:
        return f"{self.shape.name}, {self.rows} rows, {self.adapters} adapters, rank {self.ranks}"


@dataclass(frozen=True)
class Limits:
    """What this machine was measured to reach."""

    bytes_per_second: float
    flops_per_second: float

    def floor_seconds(self, case: Case) -> float:
        """No way to compute the case is faster: memory or arithmetic, whichever takes longer."""
        return max(case.moved_bytes / self.bytes_per_second, case.flops / self.flops_per_second)


def cases_of(
    shapes: Sequence[Shape], rows: Sequence[int], adapters: Sequence[int], ranks: Sequence[str]
) -> tuple[Case, ...]:
    """Every combination that is a batch of its own: adapters need a row each, a mix needs two."""
    return tuple(
        Case(shape, count, many, rank)
        for shape in shapes
        for count in rows
        for many in adapters
        for rank in ranks
        if many <= count and not (rank == MIXED and many == 1)
    )


def sets_for_cold_weights(case: Case, cache_bytes: int, most_loads: int) -> int:
    """Sets of weights to rotate over, so that none is in a cache when its turn comes again.

    Tiny layers would need very many: `most_loads` bounds the adapters that are loaded.
    """
    wanted = -(-cache_bytes // case.weight_bytes) + 1
    return max(2, min(wanted, most_loads // case.adapters))
