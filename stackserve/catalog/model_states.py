"""How each model of a deployment fares: OCI's `models/modelState`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from stackserve.catalog.resources import find, offset_page
from stackserve.errors import InvalidParameter
from stackserve.store.tables import Deployment, GroupMember, Model

SUCCESS, FAILED, INCONSISTENT = "SUCCESS", "FAILED", "INCONSISTENT"
"""INCONSISTENT: not known to be either, since the deployment is on its way or does not answer."""

SORTABLE = {"displayName": Model.display_name, "timeCreated": Model.time_created}


def list_model_states(
    session: Session, deployment_id: str, asked: Mapping[str, str], limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of the states, and where the next begins. `asked` has filters by their wire names.

    Raises NotFound, InvalidParameter.
    """
    deployment = find(session, Deployment, deployment_id)
    sort_by = asked.get("sortBy", "displayName")
    if sort_by not in SORTABLE:
        raise InvalidParameter(f"sortBy is {sort_by!r}; give one of {', '.join(SORTABLE)}")
    query = select(GroupMember, Model).join(Model, Model.id == GroupMember.model_id)
    query = query.where(GroupMember.group_id == (deployment.group_id or deployment.wanted_group_id))
    filters = {"inferenceKey": GroupMember.inference_key, "modelId": GroupMember.model_id,
               "displayName": Model.display_name, "projectId": Model.project_id}  # fmt: skip
    for name, column in filters.items():
        if name in asked:
            query = query.where(column == asked[name])
    key = SORTABLE[sort_by]
    order = key.desc() if asked.get("sortOrder") == "DESC" else key.asc()
    ordered = query.order_by(order, GroupMember.position)
    rows, following = offset_page(session, ordered, limit, asked.get("page", "0"))
    return [_view(deployment, member, model) for member, model in rows], following


def _view(deployment: Deployment, member: GroupMember, model: Model) -> dict[str, Any]:
    known = deployment.model_states.get(model.id, {"state": INCONSISTENT, "message": ""})
    return {
        "modelId": model.id,
        "projectId": model.project_id,
        "displayName": model.display_name,
        "inferenceKey": member.inference_key or model.id,
        "state": known["state"],
        "stateDetails": known["message"],
        "freeformTags": model.freeform_tags,
        "definedTags": model.defined_tags,
        "systemTags": {},
    }
