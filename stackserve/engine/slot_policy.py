"""Which adapter gets a slot of the device, which gives one up: decided from a snapshot.

Adapters that wait are served in the order in which they began to wait, and one that lost its slot
begins anew. So no adapter, however many requests it has, comes twice before another comes once; that
is what makes the wait bounded (`PolicySettings`).

The drain of the resident with least work left is SGLang's LoRADrainer, the quantum LoRAX's
`adapter_cycle_time`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stackserve.engine.tiers import Adapter


@dataclass(frozen=True)
class PolicySettings:
    """Times in seconds.

    An adapter that has waited for `starvation_seconds` makes a resident one drain: that one admits no
    more, finishes what it runs, and gives up its slot. With A other adapters waiting, S slots and
    requests of at most D seconds, an adapter has a slot after
    starvation_seconds + (⌈A / S⌉ + 1) · (min_residency_seconds + D) at the latest.
    """

    starvation_seconds: float = 2.0
    min_residency_seconds: float = 0.5
    adapters_per_batch: int | None = None
    """None: as many as there are slots."""


@dataclass(frozen=True)
class Resident:
    """An adapter on the device."""

    id: int
    slot: int
    running: int
    waiting: int
    remaining: int
    """Tokens until its last running request is done, at most."""
    since: float
    runs_since: float
    waits_since: float | None
    """Since when it has waiting requests and none that runs."""
    worth: float
    """What it would cost to have it again, times how likely that is."""
    pinned: bool
    draining: bool

    @classmethod
    def of(cls, adapter: Adapter, now: float) -> Resident:
        """A snapshot of its record."""
        assert adapter.slot is not None
        return cls(
            id=adapter.id,
            slot=adapter.slot,
            running=adapter.running,
            waiting=adapter.waiting,
            remaining=adapter.remaining,
            since=adapter.since,
            runs_since=adapter.runs_since,
            waits_since=adapter.waits_since,
            worth=adapter.worth(now),
            pinned=adapter.pinned,
            draining=adapter.draining,
        )


@dataclass(frozen=True)
class Candidate:
    """An adapter that should be on the device, and is ready to be put there."""

    id: int
    since: float
    """Since when it waits."""
    urgent: bool = False
    """Wanted there whatever it displaces: a pinned one."""


@dataclass(frozen=True)
class SlotMoves:
    """What to do now: `place` in (id, slot), after `evict`; `draining` are all that must drain."""

    evict: tuple[int, ...] = ()
    place: tuple[tuple[int, int], ...] = ()
    draining: frozenset[int] = frozenset()


def decide(
    now: float,
    residents: Sequence[Resident],
    free_slots: Sequence[int],
    candidates: Sequence[Candidate],
    settings: PolicySettings,
) -> SlotMoves:
    """Fill free slots, then those of idle residents, in the candidates' order; for candidates that
    have waited too long, let residents drain. Costs O(R log R + C).
    """
    free = list(free_slots)
    idle = sorted(
        filter(_is_idle, residents), key=lambda r: (not r.draining, r.worth), reverse=True
    )
    evict: list[int] = []
    place: list[tuple[int, int]] = []
    unserved = 0
    for candidate in candidates:
        if not free and idle:
            victim = idle.pop()
            evict.append(victim.id)
            free.append(victim.slot)
        if free:
            place.append((candidate.id, free.pop()))
        elif candidate.urgent or now - candidate.since >= settings.starvation_seconds:
            unserved += 1
    staying = [each for each in residents if each.id not in evict]
    for_slots = _draining_for_slots(now, staying, unserved, settings)
    for_batch = _draining_for_the_batch(now, staying, settings)
    return SlotMoves(tuple(evict), tuple(place), for_slots | for_batch)


def _is_idle(resident: Resident) -> bool:
    """Nothing of it runs, and nothing of it is about to."""
    wanted = resident.waiting > 0 and not resident.draining
    return not (resident.running or resident.pinned or wanted)


def _draining_for_slots(
    now: float, residents: Sequence[Resident], wanted: int, settings: PolicySettings
) -> frozenset[int]:
    """Who must give up a slot. Of those that have something to do: the others' slots are taken."""
    busy = [each for each in residents if (each.running or each.waiting) and not each.pinned]
    old = [each for each in busy if now - each.since >= settings.min_residency_seconds]
    return _least_work_left(busy, old, wanted)


def _draining_for_the_batch(
    now: float, residents: Sequence[Resident], settings: PolicySettings
) -> frozenset[int]:
    """Who must leave the batch to residents that have waited too long for a place in it; pinned ones
    too, as they keep their slots.
    """
    inside = [each for each in residents if each.running]
    if settings.adapters_per_batch is None or len(inside) < settings.adapters_per_batch:
        return frozenset()
    starved = sum(
        1
        for each in residents
        if each.waits_since is not None and now - each.waits_since >= settings.starvation_seconds
    )
    old = [each for each in inside if now - each.runs_since >= settings.min_residency_seconds]
    return _least_work_left(inside, old, starved)


def _least_work_left(
    residents: Sequence[Resident], eligible: Sequence[Resident], wanted: int
) -> frozenset[int]:
    """So many of `residents`: first those that drain already, then eligible ones by work left."""
    chosen = [each.id for each in residents if each.draining][:wanted]
    others = (each for each in eligible if not each.draining)
    ranked = sorted(others, key=lambda each: (each.remaining, each.since))
    return frozenset([*chosen, *(each.id for each in ranked[: wanted - len(chosen)])])
