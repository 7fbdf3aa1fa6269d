"""The traffic of each part, and the figures that are read off it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

from benchmarks.adapters.measure import (
    Session,
    fairness,
    gaps_between_tokens,
    percentile,
    rows_at_once,
    tokens_per_second,
    tokens_within,
)
from benchmarks.adapters.sizes import Sizes
from benchmarks.adapters.traffic import (
    Lanes,
    Traffic,
    arrivals,
    at_intervals,
    even_shares,
    power_law,
    together,
)
from benchmarks.adapters.variants import OPTIONS
from benchmarks.lora_tax.cells import Ranks

RANK_16 = Ranks("16", (16,))
HOT, COLD, STEADY = "hot", "cold", "steady"
NEVER_LOADED = 100
"""Adapters from this number on are new to an engine in each round."""


class Part(StrEnum):
    """What can be chosen on the command line."""

    POPULARITY = "popularity"
    THRASH = "thrash"
    STARVATION = "starvation"
    SCHEDULE = "schedule"
    LOADS = "loads"
    REMOVED = "removed"


Figures = dict[str, float]


@dataclass(frozen=True)
class Scene:
    """One traffic, made anew for each round, and what is read off a session of it.

    `until`: the session ends after so many seconds; None: when every answer is there.
    """

    part: Part
    title: str
    ranks: Ranks
    slots: int
    traffic: Callable[[int], Traffic]
    figures: Callable[[Session], Figures]
    until: float | None = None
    has_deciles: bool = False


def popularity(sizes: Sizes, ranks: Ranks, adapters: tuple[int, ...]) -> Iterator[Scene]:
    """A power law over few and over many adapters: flooded, and the most once at a rate with room."""
    played = [(count, FLOOD, sizes.flood, sizes.flood_asks) for count in adapters]
    played.append((max(adapters), STREAM, sizes.stream, sizes.stream_asks))
    for count, load, rate, asks in played:
        yield Scene(
            Part.POPULARITY,
            popularity_title(ranks, count, load),
            ranks,
            sizes.popularity_slots,
            partial(_drawn, power_law(count), asks, rate, f"{load}/{count}"),
            _served,
            has_deciles=load == STREAM,
        )


FLOOD, STREAM = "flood", "stream"


def popularity_title(ranks: Ranks, adapters: int, load: str) -> str:
    return f"rank {ranks.name}, {adapters} adapters, {load}"


def thrash(sizes: Sizes) -> Iterator[Scene]:
    """Adapters asked for evenly: as many as slots, then twice as many."""
    for title, adapters in ((FITTING, sizes.slots), (THRASHED, 2 * sizes.slots)):
        shares, seed = even_shares(adapters), f"thrash/{adapters}"
        traffic = partial(_drawn, shares, sizes.stream_asks, sizes.stream, seed)
        yield Scene(Part.THRASH, title, RANK_16, sizes.slots, traffic, _served)


def _drawn(shares: Sequence[float], asks: int, rate: float, seed: str, round_: int) -> Traffic:
    return arrivals(shares, asks, rate, f"{seed}/{round_}")


FITTING = "as many adapters as slots"
THRASHED = "twice as many adapters as slots"


def starvation(sizes: Sizes) -> Iterator[Scene]:
    """Two adapters that are always asked, on two slots; then the same, and one ask of a third."""
    end = sizes.starvation_seconds
    lanes = Lanes(adapters=(0, 1), each=4, prompt_tokens=16, tokens=16, role=HOT)
    hot = lanes.asks(round(end * 10))  # more than can be answered

    def without(round_: int) -> Traffic:
        return hot

    def with_cold(round_: int) -> Traffic:
        cold = at_intervals((NEVER_LOADED + round_,), sizes.cold_at, 0.0, (16, 16), COLD)
        return together(hot, cold)

    def figures(session: Session) -> Figures:
        found = {
            "hot_tokens_per_second": tokens_within(session.of_role(HOT), end / 10, session.ended)
        }
        cold = session.of_role(COLD)
        if cold:
            hot_answers = [
                each.times[-1] - each.sent
                for each in session.of_role(HOT)
                if each.answered and each.sent is not None
            ]
            found |= {
                "cold_wait": session.waits(cold)[0],
                "cold_bound": wait_bound(max(hot_answers)),
                "cold_answered": float(cold[0].answered),
            }
        return found

    for title, traffic in ((HOT_ALONE, without), (HOT_AND_COLD, with_cold)):
        yield Scene(Part.STARVATION, title, RANK_16, 2, traffic, figures, until=end)


def wait_bound(longest_answer: float) -> float:
    """Seconds within which the cold one must have its first token: docs/scheduling.md, nobody else waiting."""
    promised: float = OPTIONS["starvation_seconds"] + OPTIONS["min_residency_seconds"]
    return promised + longest_answer


HOT_ALONE = "two hot adapters"
HOT_AND_COLD = "two hot adapters, one cold"


def loads(sizes: Sizes) -> Iterator[Scene]:
    """Four answers being written while short requests come in: none, of adapters in slots, of new ones."""
    first = sizes.loads_seconds / 6
    count = int((sizes.loads_seconds - first) / sizes.loads_gap)
    writing = tuple(
        replace(ask, text=number, tokens=900)
        for number, ask in enumerate(at_intervals((0, 1, 0, 1), 0.0, 0.0, (16, 900), STEADY))
    )

    def quiet(round_: int) -> Traffic:
        return writing

    def visited_by(adapters: Sequence[int]) -> Traffic:
        visits = at_intervals(adapters, first, sizes.loads_gap, (8, 1), COLD)
        return together(writing, visits)

    def warm(round_: int) -> Traffic:
        return visited_by([number % 2 for number in range(count)])

    def cold(round_: int) -> Traffic:
        new = NEVER_LOADED + round_ * count
        return visited_by(range(new, new + count))

    def figures(session: Session) -> Figures:
        gaps = gaps_between_tokens(session.of_role(STEADY), after=first)
        return {
            "itl_p50": percentile(gaps, 50),
            "itl_p90": percentile(gaps, 90),
            "itl_p99": percentile(gaps, 99),
            "itl_max": max(gaps, default=float("nan")),
        } | _load_figures(session)

    for title, traffic in ((QUIET, quiet), (WARM, warm), (NEW, cold)):
        end = sizes.loads_seconds
        yield Scene(Part.LOADS, title, RANK_16, sizes.slots, traffic, figures, until=end)


QUIET = "no visitors"
WARM = "visitors of adapters in slots"
NEW = "visitors of new adapters"


def _served(session: Session) -> Figures:
    waits = session.waits()
    return {
        "tokens_per_second": tokens_per_second(session),
        "rows": rows_at_once(session),
        "ttft_p50": percentile(waits, 50),
        "ttft_p99": percentile(waits, 99),
        "jain": fairness(session),
        "unanswered": float(session.unanswered),
    } | _load_figures(session)


def _load_figures(session: Session) -> Figures:
    return {
        "loads_per_second": session.loads.placed / session.ended,
        "reads_per_second": session.loads.reads / session.ended,
    }
