"""`/v1/models`: what may be written in `model`, and what it means."""

from __future__ import annotations

from typing import Any

from stackserve.routing.snapshot import RoutingSnapshot
from stackserve.types import Target


def model_list(snapshot: RoutingSnapshot, created: int) -> dict[str, Any]:
    """Every served target once, in configured order, as OpenAI's list."""
    cards = [
        card(target, created) for group in snapshot.groups.values() for target in group.targets
    ]
    return {"object": "list", "data": cards}


def card(target: Target, created: int) -> dict[str, Any]:
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
