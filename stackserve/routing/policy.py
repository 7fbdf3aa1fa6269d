"""An alias: a key that stands for several members, each for its part of the requests."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate


@dataclass(frozen=True)
class WeightedMember:
    """A member by its key. Its part of the requests is its weight among all weights of the alias."""

    key: str
    weight: float


@dataclass(frozen=True)
class Alias:
    """At least one member; `shadow` is the key of a member that gets a copy of every request, and whose
    answers nobody sees.
    """

    key: str
    members: tuple[WeightedMember, ...]
    shadow: str | None = None

    @cached_property
    def bounds(self) -> tuple[float, ...]:
        """Where each member's part ends, in the sum of all weights."""
        return tuple(accumulate(member.weight for member in self.members))

    def among(self, served: Collection[str]) -> Alias | None:
        """The alias without members that are not served: the others share their parts by weight. None
        when no member is left.
        """
        members = tuple(member for member in self.members if member.key in served)
        shadow = self.shadow if self.shadow in served else None
        return replace(self, members=members, shadow=shadow) if members else None


def choose(alias: Alias, draw: float) -> str:
    """The key of the member that takes a request; `draw` is at least 0 and below 1.

    A member's part begins where that of the one before it ends: there it is the later one's turn.
    """
    bounds = alias.bounds
    place = bisect_right(bounds, draw * bounds[-1])
    # For draws next to 1 the product may be rounded up to the whole sum.
    return alias.members[min(place, len(bounds) - 1)].key
