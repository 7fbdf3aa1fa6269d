"""Models: a name and an artifact, which never changes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from stackserve.catalog.resources import change, changing, find_named, new_resource
from stackserve.errors import Conflict
from stackserve.store.tables import Group, GroupMember, Model, ModelVersionSet

ACTIVE, INACTIVE = "ACTIVE", "INACTIVE"
USER = "USER"
"""The category of all models here, and of their sets; the other, SERVICE, is of OCI's own."""
MOST_NAMED = 3
"""Groups that a refusal names."""


def create_model(
    session: Session, created_by: str, *, version_set_id: str | None = None, **columns: Any
) -> Model:
    """Raises InvalidParameter for a version set that does not exist."""
    model = new_resource(Model, "datasciencemodel", created_by, ACTIVE, **columns)
    if version_set_id is not None:
        _number(session, model, version_set_id)
    session.add(model)
    return model


def update_model(
    session: Session, identifier: str, if_match: str | None, changes: dict[str, Any]
) -> Model:
    """Change columns. A model joins a version set once. Raises NotFound, StaleEtag, Conflict."""
    model = changing(session, Model, identifier, if_match)
    joined = changes.pop("version_set_id", None)
    if joined is not None and joined != model.version_set_id:
        if model.version_set_id is not None:
            raise Conflict(f"modelVersionSetId: model {identifier} is in {model.version_set_id}")
        _number(session, model, joined)
    change(model, changes)
    return model


def delete_model(session: Session, identifier: str, if_match: str | None) -> None:
    """Raises NotFound, StaleEtag, and Conflict while a group has it."""
    model = changing(session, Model, identifier, if_match)
    query = (
        select(Group.id)
        .outerjoin(GroupMember, GroupMember.group_id == Group.id)
        .where(or_(Group.base_model_id == identifier, GroupMember.model_id == identifier))
        .distinct()
    )
    groups = list(session.scalars(query.limit(MOST_NAMED + 1)))
    if groups:
        more = " and others" if len(groups) > MOST_NAMED else ""
        raise Conflict(
            f"model {identifier} is in {', '.join(groups[:MOST_NAMED])}{more}; delete them first"
        )
    session.delete(model)


def _number(session: Session, model: Model, version_set_id: str) -> None:
    """Give a model the next number of a set, which is locked for it."""
    versions = find_named(session, ModelVersionSet, version_set_id, "modelVersionSetId", lock=True)
    versions.latest_version += 1
    model.version_set_id, model.version_id = version_set_id, versions.latest_version


def create_version_set(session: Session, created_by: str, **columns: Any) -> ModelVersionSet:
    kind = "datasciencemodelversionset"
    versions = new_resource(ModelVersionSet, kind, created_by, ACTIVE, latest_version=0, **columns)
    session.add(versions)
    return versions


def delete_version_set(
    session: Session, identifier: str, if_match: str | None, *, with_models: bool = False
) -> None:
    """Raises NotFound, StaleEtag, and Conflict while it has models, or with them, while a group has one."""
    versions = changing(session, ModelVersionSet, identifier, if_match)
    models = session.scalars(select(Model.id).where(Model.version_set_id == identifier)).all()
    if models and not with_models:
        raise Conflict(
            f"model version set {identifier} has {models[0]}; delete its models first, or give "
            "isDeleteRelatedModels"
        )
    for model in models:
        delete_model(session, model, None)
    session.flush()
    session.delete(versions)
