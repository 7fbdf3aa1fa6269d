"""What a run has found, as it grows: an interrupted run still has a report."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.adapters.player import Counts
from benchmarks.adapters.scenes import Figures


@dataclass(frozen=True)
class Reading:
    """One variant in one scene in one round. `deciles`: (p50, p99) of the wait by popularity."""

    part: str
    scene: str
    variant: str
    round: int
    figures: Figures
    deciles: tuple[tuple[float, float], ...] = ()
    checks: Counts = field(default_factory=Counts)


@dataclass(frozen=True)
class Removal:
    """What became of requests for an adapter whose files were removed, and of its engine."""

    variant: str
    evicted_from: str
    """`slot` or `memory`: whether host memory could still hold it."""
    answer: str
    company: str
    """What became of another adapter's request that was sent at the same time."""
    afterwards: str
    """What became of one that was sent later."""

    @property
    def engine_lives(self) -> bool:
        return self.afterwards == AS_BEFORE

    @property
    def is_right(self) -> bool:
        return self.engine_lives and self.company == AS_BEFORE


AS_BEFORE = "answered as before"


@dataclass
class Record:
    """`failures`: why an engine's part of the run ended early, by its title."""

    readings: list[Reading] = field(default_factory=list)
    removals: list[Removal] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    adapters_on_disk: int = 0
    bytes_on_disk: int = 0
    complete: bool = False
