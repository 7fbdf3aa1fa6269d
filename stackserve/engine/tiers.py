"""Where an adapter is: the tiers, the moves between them, and the record of one adapter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from stackserve.protocol import key_of

HALF_LIFE = 60.0
"""Seconds after which a request counts half towards an adapter's expected reuse."""


class Tier(StrEnum):
    """The nearest place where an adapter's weights are."""

    DISK = "disk"
    STAGING = "staging"
    """Being read, checked, cast and packed."""
    HOST = "host"
    DEVICE = "device"
    """In a slot; a copy is in host memory too."""


MOVES: dict[Tier, frozenset[Tier]] = {
    Tier.DISK: frozenset({Tier.STAGING}),
    Tier.STAGING: frozenset({Tier.HOST, Tier.DISK}),
    Tier.HOST: frozenset({Tier.DEVICE, Tier.DISK}),
    Tier.DEVICE: frozenset({Tier.HOST}),
}


@dataclass(slots=True, eq=False)
class Adapter:
    """What is known of one adapter. Written by `Residency` alone; times by its clock, in seconds."""

    id: int
    name: str
    source: Any
    """What the host needs to read it."""
    since: float
    """Since when it is in its tier."""
    tier: Tier = Tier.DISK
    slot: int | None = None
    num_bytes: int = 0
    load_seconds: float = 0.0
    running: int = 0
    remaining: int = 0
    """Tokens until the last of its running requests is done, at most."""
    runs_since: float = 0.0
    """Since when some of its requests run, while they do."""
    waiting: int = 0
    priority: int = 0
    """The best of those that wait."""
    waits_since: float | None = None
    """Since when it has waiting requests and none that runs."""
    draining: bool = False
    pinned: bool = False
    registered: bool = False
    """Kept in mind without requests, until removed."""
    removed_at: float | None = None
    error: str | None = None
    """Why it could not be read the last time."""
    reuse: float = 0.0
    """Requests of late, each counted less as it ages."""
    reuse_at: float = 0.0

    @property
    def key(self) -> str:
        """The inference key: the name without the digest."""
        return key_of(self.name)

    @property
    def is_used(self) -> bool:
        return bool(self.running or self.waiting)

    @property
    def is_gone(self) -> bool:
        """It was removed, and nothing of it is left."""
        return self.removed_at is not None and self.tier is Tier.DISK and not self.is_used

    def move(self, tier: Tier, now: float) -> None:
        """Raises AssertionError for a move that is not in `MOVES`."""
        if tier not in MOVES[self.tier]:
            raise AssertionError(f"adapter {self.name}: no move from {self.tier} to {tier}")
        self.tier = tier
        self.since = now

    def requested(self, now: float) -> None:
        """Count one request towards its expected reuse."""
        self.reuse = self._reuse(now) + 1
        self.reuse_at = now

    def worth(self, now: float) -> float:
        """Seconds that keeping it saves: those of a load, times its expected reuse."""
        return self.load_seconds * self._reuse(now)

    def _reuse(self, now: float) -> float:
        return self.reuse * math.exp2(-(now - self.reuse_at) / HALF_LIFE)


@dataclass(frozen=True)
class Work:
    """What runs of one adapter: requests, and tokens until the last is done at most."""

    running: int
    remaining: int


class IdentityTaken(ValueError):
    """A request names one adapter by the id of another."""


class Observer(Protocol):
    """Who counts what happens to adapters, by key."""

    def loaded(self, key: str, seconds: float, num_bytes: int) -> None: ...
    def load_failed(self, key: str) -> None: ...
    def evicted(self, key: str, tier: str) -> None: ...
    def drained(self, key: str) -> None: ...
