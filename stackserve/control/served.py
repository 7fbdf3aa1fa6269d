"""What a group's routes say: what is served, what is refused, and what is still being read."""

from __future__ import annotations

from collections.abc import Callable

from stackserve.control.groups import StackedGroup, refusal
from stackserve.control.launch import targets_of
from stackserve.routing.gate import Gate
from stackserve.routing.snapshot import GroupRoutes
from stackserve.settings import GroupSettings
from stackserve.types import Refusal


def pending_routes(gate: Gate, settings: GroupSettings, address: str | None = None) -> GroupRoutes:
    """While a group is read for the first time."""
    names = (name for m in settings.models for name in (m.key, settings.model_id_of(m)))
    return GroupRoutes(gate, pending=tuple(names), address=address)


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
    )


def _engine_refusal(settings: GroupSettings, key: str) -> Refusal:
    member = next(member for member in settings.members if member.key == key)
    message = "the engine could not load it; the server's log says why"
    return refusal(settings, member, "adapter_engine_refused", message)
