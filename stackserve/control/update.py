"""From what a running server has to what its file says now: what can be done live, decided purely."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec

from stackserve.control.groups import Member, StackedGroup
from stackserve.control.launch import AdapterRoom
from stackserve.errors import RolloutFailed
from stackserve.protocol import AdapterSpec
from stackserve.server_settings import Section
from stackserve.settings import LORA_RANKS, GroupSettings
from stackserve.types import Refusal

logger = logging.getLogger(__name__)


class NotLive(Exception):
    """A running group cannot become so; the message says why, and what it takes."""

    def __init__(self, reason: str, remedy: str = "restart the server") -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason


@dataclass(frozen=True)
class Plan:
    """What to ask of a worker. The routes are swapped between the first two steps, and what is
    forgotten waits until nobody uses it.
    """

    load: tuple[AdapterSpec, ...]
    """New to it; unpinned, since those that they replace may still have their pins."""
    adjust: tuple[AdapterSpec, ...]
    """Known, with another share or pin; first those that give up a pin."""
    forget: tuple[str, ...]
    """No longer wanted, by their names in the worker."""


def plan_update(known: Mapping[str, AdapterSpec], wanted: Mapping[str, AdapterSpec]) -> Plan:
    """The way from the adapters that a worker knows to those that it should know, both by their names
    in the worker.
    """
    new = wanted.keys() - known.keys()
    shares = {spec.key: spec.weight for spec in wanted.values()}
    # A share belongs to the key, so an old version must not bring its own back.
    unpinned = [
        msgspec.structs.replace(spec, pinned=False, weight=shares.get(spec.key, spec.weight))
        for name, spec in known.items()
        if name not in wanted and spec.pinned
    ]
    changed = [
        spec for name, spec in wanted.items() if name in known and _differs(known[name], spec)
    ]
    return Plan(
        load=tuple(msgspec.structs.replace(wanted[n], pinned=False) for n in wanted if n in new),
        adjust=tuple(sorted((*unpinned, *changed), key=lambda spec: spec.pinned)),
        forget=tuple(name for name in known if name not in wanted),
    )


def _differs(one: AdapterSpec, other: AdapterSpec) -> bool:
    return (one.weight, one.pinned) != (other.weight, other.pinned)


def check_settings(running: GroupSettings, new: GroupSettings) -> None:
    """Raises NotLive when anything but the members has changed."""
    changed = (
        *changed_options("base", running.base, new.base),
        *changed_options("engine", running.engine, new.engine),
    )
    if changed:
        raise NotLive(
            f"{', '.join(changed)} changed, which a running engine cannot follow",
            "restart the server, or undo it to change only members",
        )


def changed_options(name: str, running: Section, new: Section) -> Iterator[str]:
    """The options of a section that differ, with its name in front."""
    was, will_be = running.model_dump(), new.model_dump()
    return (f"{name}.{option}" for option in will_be if was[option] != will_be[option])


def fitted(new: StackedGroup, running: StackedGroup, room: AdapterRoom | None) -> StackedGroup:
    """The group as an engine with such room can serve it, which was started for `running`'s base.

    Members that are too large are refused; of a key that is refused and served now, what is served
    stays. Raises NotLive when the engine cannot serve the group.
    """
    _check_base(new, running)
    if not new.members and not (new.refused and running.members):
        return new
    room = _room(room)
    fitting = _with_what_is_served(_without_too_large(new, room), running)
    _check_pins(fitting, room)
    return fitting


def switchable(new: StackedGroup, running: StackedGroup, room: AdapterRoom | None) -> StackedGroup:
    """The group, which an engine with such room can serve wholly.

    Raises NotLive when the engine cannot serve it, RolloutFailed when it cannot serve some of it.
    """
    _check_base(new, running)
    if new.members:
        room = _room(room)
        new = _without_too_large(new, room)
        _check_pins(new, room)
    if new.refused:
        raise RolloutFailed({each.key: each.message for each in new.refused})
    return new


def _check_base(new: StackedGroup, running: StackedGroup) -> None:
    if new.base.fingerprint != running.base.fingerprint:
        raise NotLive("the files of its base changed", "restart the server to serve them")


def _room(room: AdapterRoom | None) -> AdapterRoom:
    if room is None:
        raise NotLive("its engine was started without any adapter and takes none")
    return room


def _without_too_large(new: StackedGroup, room: AdapterRoom) -> StackedGroup:
    members = tuple(member for member in new.members if member.adapter.rank <= room.rank)
    too_large = (
        _over_rank(new.settings, member, room.rank)
        for member in new.members
        if member.adapter.rank > room.rank
    )
    return replace(new, members=members, refused=(*new.refused, *too_large))


def _check_pins(group: StackedGroup, room: AdapterRoom) -> None:
    pinned = sum(member.pinned for member in group.members)
    if pinned and pinned >= room.slots:
        raise NotLive(
            f"{pinned} pinned would leave no slot for others, since its engine was started with "
            f"{room.slots} adapter_slots",
            "pin fewer, or set engine.adapter_slots and restart the server",
        )


def _with_what_is_served(new: StackedGroup, running: StackedGroup) -> StackedGroup:
    """The new group, in which a key that is refused now keeps the adapter that it has."""
    served = {member.key: member for member in running.members}
    kept = {refusal.key: served[refusal.key] for refusal in new.refused if refusal.key in served}
    for refusal in new.refused:
        if refusal.key in kept:
            logger.error(
                "%s: %s goes on with the adapter that it has, since the new one is not served: %s (%s)",
                new.name, refusal.key, refusal.message, refusal.code,
            )  # fmt: skip
    refused = tuple(refusal for refusal in new.refused if refusal.key not in kept)
    return replace(new, members=(*new.members, *kept.values()), refused=refused)


def _over_rank(settings: GroupSettings, member: Member, slot_rank: int) -> Refusal:
    rank = member.adapter.rank
    needed = next(each for each in LORA_RANKS if each >= rank)
    message = (
        f"Its rank is {rank}, and the adapter slots of the running engine hold {slot_rank}; set "
        f"engine.max_rank to {needed} and restart the server."
    )
    return Refusal(settings.name, member.key, member.model_id, "rank_over_limit", message)


class Named(Protocol):
    """A group's settings, as far as they name models."""

    @property
    def names(self) -> Iterator[str]: ...


def clashes(running: Mapping[str, Named], offered: Mapping[str, Named]) -> dict[str, str]:
    """Of the groups that could be updated, those that must not be, and why: a group that stays as it
    is still has a name that they would take.

    A group that is kept back keeps its own names, which may keep back others.
    """
    found: dict[str, str] = {}
    while True:
        taken = {
            name: group
            for group, settings in running.items()
            if group not in offered or group in found
            for name in settings.names
        }
        more = {
            group: f"{name} is still a name of group {taken[name]}, which is not updated; "
            "restart the server, or give it another name"
            for group, settings in offered.items()
            if group not in found
            for name in settings.names
            if name in taken
        }
        if not more:
            return found
        found |= more


def _terms(member: Member) -> tuple[str, float, bool]:
    return member.model_id, member.share, member.pinned


def difference(old: StackedGroup, new: StackedGroup) -> str:
    """What became of a group, in words; empty when nothing did."""
    before = {member.key: member for member in old.members}
    after = {member.key: member for member in new.members}
    kept = before.keys() & after.keys()
    replaced = {k for k in kept if before[k].adapter.digest != after[k].adapter.digest}
    adjusted = {k for k in kept - replaced if _terms(before[k]) != _terms(after[k])}
    was, will_be = ({a.key: a for a in group.settings.aliases} for group in (old, new))
    counts = {
        "added": len(after.keys() - before.keys()),
        "replaced": len(replaced),
        "adjusted": len(adjusted),
        "removed": len(before.keys() - after.keys()),
        "refused": len(set(new.refused) - set(old.refused)),
        "aliases changed": sum(
            was.get(key) != will_be.get(key) for key in was.keys() | will_be.keys()
        ),
    }
    return in_words(counts)


def in_words(counts: Mapping[str, int]) -> str:
    """`1 added, 2 removed`; empty when nothing happened."""
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)
