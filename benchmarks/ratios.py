"""Statistics of paired rounds: medians, spread, and the ratio to the baseline of the same round.

On a machine shared with others the speed of everything drifts. What was measured within one round
saw nearly the same machine, so ratios are taken within a round, and only then is a median taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
FEWEST_FOR_INTERVAL = 3
"""Fewer rounds show no spread worth a statement."""


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of some readings."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Ratio:
    """The median of per-round ratios, and the bounds of its 95% interval (None: too few rounds)."""

    median: float
    low: float | None
    high: float | None

    @property
    def in_words(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.median:.3f}"
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def spread(values: Sequence[float]) -> Spread:
    return Spread(float(np.median(values)), min(values), max(values))


def paired_ratio(values: Mapping[int, float], baseline: Mapping[int, float]) -> Ratio | None:
    """value / baseline for the rounds that both have; None when they share no round."""
    shared = sorted(values.keys() & baseline.keys())
    if not shared:
        return None
    ratios = [values[number] / baseline[number] for number in shared]
    low, high = bootstrap_interval(ratios) or (None, None)
    return Ratio(float(np.median(ratios)), low, high)


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """The 95% percentile interval of the median; always the same for the same values."""
    if len(values) < FEWEST_FOR_INTERVAL:
        return None
    drawn = np.random.default_rng(seed).choice(np.asarray(values), (RESAMPLES, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return float(low), float(high)
