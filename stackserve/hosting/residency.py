"""Which models must go so that another may come: pure functions of what is resident."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Resident:
    """A model that is charged to the budget."""

    model: int
    charge: int
    """Bytes."""
    last_used: float
    """Seconds of any monotonic clock."""
    in_use: bool
    """A request is under way for it, or it is on its way in or out."""
    pinned: bool

    @property
    def may_go(self) -> bool:
        return not (self.in_use or self.pinned)


def victims(resident: Sequence[Resident], budget: int, need: int) -> tuple[int, ...] | None:
    """The models to evict for `need` more bytes, those first that were used least recently; None when
    there is no room for it now, whichever go.
    """
    excess = sum(each.charge for each in resident) + need - budget
    chosen = []
    for each in sorted((r for r in resident if r.may_go), key=lambda r: r.last_used):
        if excess <= 0:
            break
        chosen.append(each.model)
        excess -= each.charge
    return None if excess > 0 else tuple(chosen)


def never_fits(resident: Sequence[Resident], budget: int, need: int) -> bool:
    """Whether there would be no room even if everything went that is not pinned."""
    return sum(each.charge for each in resident if each.pinned) + need > budget


def idle(resident: Sequence[Resident], now: float, seconds: float) -> tuple[int, ...]:
    """The models that nobody has asked for so long."""
    return tuple(r.model for r in resident if r.may_go and now - r.last_used >= seconds)


def blamed_again(before: frozenset[int], now: frozenset[int]) -> frozenset[int]:
    """Of the models that were worked on at a worker's crash, those to keep out: they were so at the
    crash before it, too.
    """
    return before & now


def keeps_memory(rss: int, baseline: int, charged: int, slack: int) -> bool:
    """Whether a worker holds much more than its models account for: bytes, `baseline` those of the
    worker without a model.
    """
    return rss > baseline + charged + slack
