"""When a dead worker is started again: soon at first, then ever later, never in a busy loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 300.0
WINDOW = 600.0
"""Seconds after which a death is forgiven."""
BREAKER = 5
"""Deaths within the window that make a deployment FAILED; it is then tried at the longest pause."""


@dataclass(frozen=True)
class Verdict:
    """What to do after a death: pause so many seconds; `broken` says that it happens too often."""

    pause: float
    broken: bool


Judge = Callable[[Sequence[float], float], Verdict]
"""What `after_death` is."""


class Deaths:
    """Those of one worker after the other. Keeps as many as can matter."""

    def __init__(self, judge: Judge | None = None) -> None:
        self._judge = judge or after_death
        self._times: list[float] = []

    def at(self, now: float) -> Verdict:
        """One more; what to do after it."""
        self._times = [*self._times, now][-BREAKER:]
        return self._judge(self._times, now)


def after_death(deaths: Sequence[float], now: float) -> Verdict:
    """Judge by the times of all deaths, the one at `now` included (seconds, any monotonic clock)."""
    recent = sum(1 for death in deaths if now - death < WINDOW)
    if recent >= BREAKER:
        return Verdict(LONGEST_PAUSE, broken=True)
    return Verdict(FIRST_PAUSE * 4 ** (recent - 1), broken=False)
