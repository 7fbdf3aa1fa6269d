"""The few figures that the scheduler is judged by, for each variant, against what they must reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.adapters.record import AS_BEFORE, Reading, Removal
from benchmarks.adapters.scenes import (
    HOT_ALONE,
    HOT_AND_COLD,
    NEW,
    THRASHED,
    WARM,
    Part,
    popularity_title,
)
from benchmarks.adapters.schedule_cost import cases_of
from benchmarks.adapters.sizes import Sizes
from benchmarks.adapters.summary import Place, by_round, ratio_of
from benchmarks.adapters.variants import Variant
from benchmarks.lora_tax.cells import Ranks


@dataclass(frozen=True)
class Goal:
    """What must be reached, and what is aimed at."""

    needed: float
    aim: float
    more_is_better: bool
    digits: int = 2

    def verdict(self, value: float) -> str:
        def reaches(bound: float) -> bool:
            return value >= bound if self.more_is_better else value <= bound

        return "aim" if reaches(self.aim) else "needed" if reaches(self.needed) else "missed"

    @property
    def in_words(self) -> tuple[str, str]:
        sign = "≥" if self.more_is_better else "≤"
        return f"{sign} {self.needed:.{self.digits}f}", f"{sign} {self.aim:.{self.digits}f}"


@dataclass(frozen=True)
class Headline:
    """A figure by variant, in words; `reached` is what ours does: aim, needed, missed, or "" unknown."""

    name: str
    values: dict[str, str]
    needed: str
    aim: str
    reached: str


SCHEDULE = Goal(1.0, 0.2, more_is_better=False, digits=1)
COLD_WAIT = Goal(1.0, 1.0, more_is_better=False)
HOT = Goal(0.98, 0.98, more_is_better=True)
MANY = Goal(0.90, 0.97, more_is_better=True)
GAPS = Goal(1.3, 1.05, more_is_better=False)
WAITS = Goal(3.0, 10.0, more_is_better=True, digits=0)


def headlines(
    readings: Sequence[Reading], removals: Sequence[Removal], ranks: Sequence[Ranks], sizes: Sizes
) -> tuple[Headline, ...]:
    """Those of the parts that were measured."""
    made = [
        _schedule(readings, sizes),
        _cold_wait(readings),
        *(each.headline(readings) for each in comparisons(ranks, sizes)),
        *_removed(removals),
    ]
    return tuple(each for each in made if each.values)


def _schedule(readings: Sequence[Reading], sizes: Sizes) -> Headline:
    """The dearest way to spread the most blocked requests over adapters."""
    most = max(sizes.blocked)
    found = {}
    for variant in Variant:
        medians = [
            float(np.median(list(rounds.values()))) * 1000
            for case in cases_of(sizes)
            if case.blocked == most
            and (rounds := by_round(readings, Place(Part.SCHEDULE, case.title, variant), "schedule_p50"))
        ]  # fmt: skip
        if medians:
            found[variant] = max(medians)
    return _headline(
        f"schedule() with {most:,} blocked, ms",
        {variant: (value, f"{value:.3g}") for variant, value in found.items()},
        SCHEDULE,
    )


def _cold_wait(readings: Sequence[Reading]) -> Headline:
    """The longest of all rounds, as a part of what is promised (`scenes.wait_bound`)."""
    found = {}
    for variant in Variant:
        place = Place(Part.STARVATION, HOT_AND_COLD, variant)
        waits, bounds, answered = (
            by_round(readings, place, figure)
            for figure in ("cold_wait", "cold_bound", "cold_answered")
        )
        if waits:
            longest = max(waits.values())
            share = max(wait / bounds[round_] for round_, wait in waits.items())
            served = all(answered.values())
            words = f"{share:.2f} ({longest:.2f} s)" if served else f"none in {longest:.0f} s"
            found[variant] = share if served else float("inf"), words
    return _headline("cold request behind two hot adapters: wait / bound", found, COLD_WAIT)


@dataclass(frozen=True)
class Comparison:
    """One figure in one scene over the same in another, round by round; `of` None: each variant's own."""

    name: str
    goal: Goal
    part: Part
    over: str
    under: str
    figure: str
    of: Variant | None = None

    def headline(self, readings: Sequence[Reading]) -> Headline:
        found = {}
        for variant in Variant:
            over = Place(self.part, self.over, self.of or variant)
            under = Place(self.part, self.under, variant)
            if ratio := ratio_of(readings, over, under, self.figure):
                found[variant] = ratio.median, ratio.in_words
        return _headline(self.name, found, self.goal)


def comparisons(ranks: Sequence[Ranks], sizes: Sizes) -> Iterator[Comparison]:
    few, many = min(sizes.adapters), max(sizes.adapters)
    yield Comparison(
        "hot adapters' tokens/s with a cold one / without",
        HOT, Part.STARVATION, HOT_AND_COLD, HOT_ALONE, "hot_tokens_per_second",
    )  # fmt: skip
    for each in ranks:
        yield Comparison(
            f"tokens/s at {many:,} adapters / at {few}, rank {each.name}",
            MANY,
            Part.POPULARITY,
            popularity_title(each, many, "flood"),
            popularity_title(each, few, "flood"),
            "tokens_per_second",
        )
    yield Comparison(
        "others' p99 between tokens, new adapters / adapters in slots",
        GAPS, Part.LOADS, NEW, WARM, "itl_p99",
    )  # fmt: skip
    yield Comparison(
        "time to first token, p50, twice as many adapters as slots: stock / this",
        WAITS, Part.THRASH, THRASHED, THRASHED, "ttft_p50", of=Variant.STOCK,
    )  # fmt: skip


PLACES = {"slot": "its slot", "memory": "host memory too"}


def _removed(removals: Sequence[Removal]) -> Iterator[Headline]:
    for evicted_from in dict.fromkeys(each.evicted_from for each in removals):
        cases = {r.variant: r for r in removals if r.evicted_from == evicted_from}
        ours = cases.get(Variant.STACKSERVE)
        reached = ""
        if ours:
            served = "aim" if ours.answer == AS_BEFORE else "needed"
            reached = served if ours.is_right else "missed"
        yield Headline(
            f"adapter's files removed, evicted from {PLACES[evicted_from]}, then used",
            {variant: _in_short(case) for variant, case in cases.items()},
            "it fails alone",
            "it is served",
            reached,
        )


def _in_short(case: Removal) -> str:
    if not case.engine_lives:
        return "engine dies"
    return "served" if case.answer == AS_BEFORE else "fails" if case.is_right else "others fail"


def _headline(name: str, found: dict[Variant, tuple[float, str]], goal: Goal) -> Headline:
    needed, aim = goal.in_words
    ours = found.get(Variant.STACKSERVE)
    return Headline(
        name,
        {variant: words for variant, (_, words) in found.items()},
        needed,
        aim,
        goal.verdict(ours[0]) if ours else "",
    )
