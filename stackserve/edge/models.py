"""`/v1/models`: what may be written in `model`, and what it means."""

from __future__ import annotations

from typing import Any

from stackserve.routing.snapshot import GroupRoutes, RoutingSnapshot, ServedAlias
from stackserve.types import Target


def model_list(snapshot: RoutingSnapshot, created: int) -> dict[str, Any]:
    """Every served target and alias once, in configured order, as OpenAI's list."""
    data = [each for group in snapshot.groups.values() for each in cards(group, created)]
    return {"object": "list", "data": data}


def shown_model(snapshot: RoutingSnapshot, name: str, created: int) -> dict[str, Any]:
    """The model that `name` means. Raises what `RoutingSnapshot.resolve` raises."""
    if alias := snapshot.names.aliases.get(name):
        return _alias_card(alias, created)
    return _card(snapshot.resolve(name).target, created)


def cards(group: GroupRoutes, created: int) -> list[dict[str, Any]]:
    """A group's models and aliases."""
    return [
        *(_card(target, created) for target in group.targets),
        *(_alias_card(alias, created) for alias in group.served_aliases),
    ]


def _card(target: Target, created: int) -> dict[str, Any]:
    """One model in OpenAI's shape; the fields after `parent` are ours."""
    return {
        "id": target.key,
        "object": "model",
        "created": created,
        "owned_by": "stackserve",
        "root": target.parent or target.key,
        "parent": target.parent,
        "model_id": target.model_id,
        "group": target.group,
        "version": target.version,
        "adapter_sha256": target.adapter_sha256,
    }


def _alias_card(served: ServedAlias, created: int) -> dict[str, Any]:
    alias = served.alias
    return {
        "id": alias.key,
        "object": "model",
        "created": created,
        "owned_by": "stackserve",
        "model_id": served.model_id,
        "group": served.group,
        "members": {member.key: member.weight for member in alias.members},
        "shadow": alias.shadow,
    }
