"""What a session tells: speeds, waits and fairness, from when each token of each answer came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from random import Random

import numpy as np

from benchmarks.adapters.traffic import Traffic

DECILES = 10


@dataclass(frozen=True)
class Outcome:
    """What became of an ask. Seconds from the start of the session; `sent` None: never sent.

    `error` is empty for an answer of full length.
    """

    sent: float | None
    times: tuple[float, ...]
    tokens: tuple[int, ...]
    error: str

    @property
    def answered(self) -> bool:
        return self.sent is not None and not self.error


@dataclass(frozen=True)
class Loads:
    """How often weights were read from files, and how often a slot was filled."""

    reads: int
    placed: int

    def since(self, before: Loads) -> Loads:
        return Loads(self.reads - before.reads, self.placed - before.placed)


@dataclass(frozen=True)
class Session:
    """A traffic that was played, ask by ask what became of it, and when it was over.

    `ended` is when the last answer came, or when those that were left were given up.
    """

    traffic: Traffic
    outcomes: tuple[Outcome, ...]
    loads: Loads
    ended: float
    dead: str = ""

    @property
    def answered(self) -> int:
        return sum(outcome.answered for outcome in self.outcomes)

    @property
    def unanswered(self) -> int:
        return sum(o.sent is not None and not o.answered for o in self.outcomes)

    def of_role(self, role: str) -> tuple[Outcome, ...]:
        pairs = zip(self.traffic, self.outcomes, strict=True)
        return tuple(outcome for ask, outcome in pairs if ask.role == role)

    def waits(self, outcomes: Sequence[Outcome] | None = None) -> list[float]:
        """Seconds to the first token. Who had none when the session ended waited until then."""
        chosen = self.outcomes if outcomes is None else outcomes
        return [
            (o.times[0] if o.times else self.ended) - o.sent for o in chosen if o.sent is not None
        ]


def percentile(values: Sequence[float], percent: float) -> float:
    """NaN of nothing."""
    return float(np.percentile(values, percent)) if len(values) else float("nan")


def tokens_per_second(session: Session) -> float:
    """All tokens over the time from the first ask to the last token."""
    times = [time for outcome in session.outcomes for time in outcome.times]
    sent = [outcome.sent for outcome in session.outcomes if outcome.sent is not None]
    return len(times) / (max(times) - min(sent)) if times else 0.0


def tokens_within(outcomes: Sequence[Outcome], start: float, end: float) -> float:
    """Tokens per second between two moments."""
    count = sum(start <= time < end for outcome in outcomes for time in outcome.times)
    return count / (end - start)


def rows_at_once(session: Session) -> float:
    """How many answers were being written at a time, on average."""
    spans = [o.times[-1] - o.times[0] for o in session.outcomes if o.times]
    sent = [outcome.sent for outcome in session.outcomes if outcome.sent is not None]
    return sum(spans) / (session.ended - min(sent)) if sent else 0.0


def gaps_between_tokens(outcomes: Sequence[Outcome], after: float = 0.0) -> list[float]:
    """Seconds from token to token within each answer, of tokens that came later than `after`."""
    return [
        later - earlier
        for outcome in outcomes
        for earlier, later in pairwise(outcome.times)
        if earlier >= after
    ]


def jain_index(values: Sequence[float]) -> float:
    """(Σx)² / (n Σx²): 1 when all have the same, 1/n when one has all."""
    total, squares = sum(values), sum(value * value for value in values)
    return total * total / (len(values) * squares) if squares else float("nan")


def fairness(session: Session) -> float:
    """Jain's index over adapters of the speed at which each was served: tokens over seconds from
    asking to the last token, all its requests together.
    """
    pairs = zip(session.traffic, session.outcomes, strict=True)
    asked = [(ask.adapter, outcome) for ask, outcome in pairs if outcome.sent is not None]
    asked.sort(key=_by_adapter)
    speeds = []
    for _, group in groupby(asked, key=_by_adapter):
        mine = [outcome for _, outcome in group]
        tokens = sum(len(outcome.times) for outcome in mine)
        seconds = sum(_finish(outcome, session) - (outcome.sent or 0.0) for outcome in mine)
        speeds.append(tokens / seconds)
    return jain_index(speeds)


def waits_by_decile(session: Session) -> tuple[tuple[float, float], ...]:
    """(p50, p99) of the wait for each tenth of the requests, those of the most popular adapters first.

    Those of one adapter are shuffled: else its tenths would be early and late ones.
    """
    pairs = [
        (ask.adapter, outcome)
        for ask, outcome in zip(session.traffic, session.outcomes, strict=True)
        if outcome.sent is not None
    ]
    Random(0).shuffle(pairs)
    pairs.sort(key=_by_adapter)
    waits = session.waits([outcome for _, outcome in pairs])
    bounds = [round(part * len(waits) / DECILES) for part in range(DECILES + 1)]
    tenths = [waits[low:high] for low, high in pairwise(bounds)]
    return tuple((percentile(tenth, 50), percentile(tenth, 99)) for tenth in tenths if tenth)


def _by_adapter(pair: tuple[int | None, Outcome]) -> int:
    return -1 if pair[0] is None else pair[0]


def _finish(outcome: Outcome, session: Session) -> float:
    return outcome.times[-1] if outcome.answered else session.ended
