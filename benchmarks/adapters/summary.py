"""Readings of several rounds as one figure each: medians, and ratios within a round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.adapters.player import Counts
from benchmarks.adapters.record import Reading
from benchmarks.ratios import Ratio, Spread, paired_ratio, spread


@dataclass(frozen=True)
class Summary:
    """One variant in one scene, over all rounds."""

    part: str
    scene: str
    variant: str
    figures: Mapping[str, Spread]
    deciles: tuple[tuple[float, float], ...]
    checks: Counts


def summarise(readings: Sequence[Reading]) -> tuple[Summary, ...]:
    """In the order in which scenes and variants first come; those of a scene stand together."""
    scenes: dict[tuple[str, str], dict[str, list[Reading]]] = {}
    for each in readings:
        scenes.setdefault((each.part, each.scene), {}).setdefault(each.variant, []).append(each)
    return tuple(
        _summary(part, scene, variant, rounds)
        for (part, scene), variants in scenes.items()
        for variant, rounds in variants.items()
    )


def _summary(part: str, scene: str, variant: str, rounds: Sequence[Reading]) -> Summary:
    names = dict.fromkeys(name for reading in rounds for name in reading.figures)
    return Summary(
        part,
        scene,
        variant,
        figures={
            name: spread([r.figures[name] for r in rounds if name in r.figures]) for name in names
        },
        deciles=_median_deciles([r.deciles for r in rounds if r.deciles]),
        checks=sum((r.checks for r in rounds), Counts()),
    )


def _median_deciles(
    rounds: Sequence[tuple[tuple[float, float], ...]],
) -> tuple[tuple[float, float], ...]:
    if not rounds:
        return ()
    medians = np.median(np.asarray(rounds), axis=0)
    return tuple((float(p50), float(p99)) for p50, p99 in medians)


@dataclass(frozen=True)
class Place:
    """Where a figure stands: a scene of a part, and a variant."""

    part: str
    scene: str
    variant: str


def by_round(readings: Sequence[Reading], place: Place, figure: str) -> dict[int, float]:
    """NaN is no figure."""
    found = {
        each.round: each.figures[figure]
        for each in readings
        if Place(each.part, each.scene, each.variant) == place and figure in each.figures
    }
    return {round_: value for round_, value in found.items() if not math.isnan(value)}


def ratio_of(readings: Sequence[Reading], over: Place, under: Place, figure: str) -> Ratio | None:
    """The figure at one place over that at another, round by round."""
    return paired_ratio(by_round(readings, over, figure), by_round(readings, under, figure))
