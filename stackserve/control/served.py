"""What a group's routes say: what is served, what is refused, and what is still being read."""

from __future__ import annotations

from collections.abc import Callable

from stackserve.control.groups import StackedGroup, refusal
from stackserve.control.launch import targets_of
from stackserve.routing.gate import Gate
from stackserve.routing.policy import Alias, WeightedMember
from stackserve.routing.snapshot import GroupRoutes
from stackserve.settings import AliasSettings, GroupSettings
from stackserve.types import Refusal


def pending_routes(gate: Gate, settings: GroupSettings, address: str | None = None) -> GroupRoutes:
    """While a group is read for the first time."""
    return GroupRoutes(gate, pending=tuple(settings.names), address=address)


def served_routes(
    gate: Gate,
    group: StackedGroup,
    engine_refuses: Callable[[str], bool],
    address: str | None = None,
) -> GroupRoutes:
    """Of a group that has been read; `engine_refuses` is asked by names in the worker."""
    targets = targets_of(group)
    refused = [each for each in targets if engine_refuses(each.worker_model)]
    return GroupRoutes(
        gate,
        tuple(each for each in targets if each not in refused) if refused else targets,
        (*group.refused, *(_engine_refusal(group.settings, each.key) for each in refused)),
        address=address,
        aliases=tuple(map(_alias, group.settings.aliases)),
    )


def _alias(settings: AliasSettings) -> Alias:
    weighted = (WeightedMember(key, weight) for key, weight in settings.members.items())
    return Alias(settings.key, tuple(weighted), settings.shadow)


def _engine_refusal(settings: GroupSettings, key: str) -> Refusal:
    member = next(member for member in settings.members if member.key == key)
    message = "the engine could not load it; the server's log says why"
    return refusal(settings, member, "adapter_engine_refused", message)
