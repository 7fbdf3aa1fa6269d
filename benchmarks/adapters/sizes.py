"""How large each part is: `FULL` for figures to quote, `QUICK` to see that everything runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Seconds, rates per second, and counts."""

    adapters: tuple[int, ...]
    slots: int
    popularity_slots: int
    """As many as sequences, so that slots do not bound the batch where most adapters are asked once."""
    rounds: int
    flood: float
    """Arrivals per second that no variant keeps up with: for throughput."""
    flood_asks: int
    """So many that the end, when too few are left to fill the seats, hardly counts."""
    stream: float
    """Arrivals per second that every variant keeps up with while adapters have slots: for waits."""
    stream_asks: int
    starvation_seconds: float
    cold_at: float
    loads_seconds: float
    loads_gap: float
    blocked: tuple[int, ...]
    distinct: tuple[int, ...]
    """Adapters over which the blocked requests are spread, beside as many as requests."""
    steps: int


FULL = Sizes(
    adapters=(5, 100, 1000),
    slots=8,
    popularity_slots=16,
    rounds=3,
    flood=100.0,
    flood_asks=400,
    stream=2.0,
    stream_asks=160,
    starvation_seconds=30.0,
    cold_at=10.0,
    loads_seconds=12.0,
    loads_gap=0.4,
    blocked=(0, 1000, 5000, 20_000),
    distinct=(1, 100, 5000),
    steps=30,
)
QUICK = Sizes(
    adapters=(5, 40),
    slots=4,
    popularity_slots=16,
    rounds=1,
    flood=100.0,
    flood_asks=40,
    stream=3.0,
    stream_asks=30,
    starvation_seconds=10.0,
    cold_at=3.0,
    loads_seconds=6.0,
    loads_gap=0.5,
    blocked=(0, 1000, 5000),
    distinct=(1, 100),
    steps=10,
)
