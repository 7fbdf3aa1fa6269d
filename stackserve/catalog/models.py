"""Models: a name and an artifact, which never changes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from stackserve.catalog.resources import find, new_id, now, touch
from stackserve.errors import Conflict, InvalidParameter, NotFound
from stackserve.store.tables import Group, GroupMember, Model, ModelVersionSet

ACTIVE, INACTIVE = "ACTIVE", "INACTIVE"
USER = "USER"
"""The category of all models here, and of their sets; the other, SERVICE, is of OCI's own."""
MOST_NAMED = 3
"""Groups that a refusal names."""


def create_model(
    session: Session, created_by: str, *, version_set_id: str | None = None, **fields: Any
) -> Model:
    """Raises InvalidParameter for a version set that does not exist."""
    moment = now()
    model = Model(
        id=new_id("datasciencemodel"),
        lifecycle_state=ACTIVE,
        lifecycle_details="",
        created_by=created_by,
        time_created=moment,
        time_updated=moment,
        revision=1,
        **fields,
    )
    if version_set_id is not None:
        _number(session, model, version_set_id)
    session.add(model)
    return model


def update_model(
    session: Session, identifier: str, if_match: str | None, changes: dict[str, Any]
) -> Model:
    """Change columns. A model joins a version set once. Raises NotFound, StaleEtag, Conflict."""
    model = find(session, Model, identifier, lock=True)
    touch(model, if_match)
    joined = changes.pop("version_set_id", None)
    if joined is not None and joined != model.version_set_id:
        if model.version_set_id is not None:
            raise Conflict(f"modelVersionSetId: model {identifier} is in {model.version_set_id}")
        _number(session, model, joined)
    for column, value in changes.items():
        setattr(model, column, value)
    return model


def set_model_state(session: Session, identifier: str, if_match: str | None, state: str) -> Model:
    """ACTIVE or INACTIVE; an inactive model goes on being served where it is, and no new group takes
    it. Raises NotFound, StaleEtag.
    """
    model = find(session, Model, identifier, lock=True)
    touch(model, if_match)
    model.lifecycle_state = state
    return model


def delete_model(session: Session, identifier: str, if_match: str | None) -> None:
    """Raises NotFound, StaleEtag, and Conflict while a group has it."""
    model = find(session, Model, identifier, lock=True)
    touch(model, if_match)
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
    try:
        versions = find(session, ModelVersionSet, version_set_id, lock=True)
    except NotFound as error:
        raise InvalidParameter(f"modelVersionSetId: {error.message}") from None
    versions.latest_version += 1
    model.version_set_id, model.version_id = version_set_id, versions.latest_version


def create_version_set(session: Session, created_by: str, **fields: Any) -> ModelVersionSet:
    moment = now()
    versions = ModelVersionSet(
        id=new_id("datasciencemodelversionset"),
        lifecycle_state=ACTIVE,
        lifecycle_details="",
        created_by=created_by,
        time_created=moment,
        time_updated=moment,
        revision=1,
        latest_version=0,
        **fields,
    )
    session.add(versions)
    return versions


def delete_version_set(
    session: Session, identifier: str, if_match: str | None, *, with_models: bool = False
) -> None:
    """Raises NotFound, StaleEtag, and Conflict while it has models, or with them, while a group has one."""
    versions = find(session, ModelVersionSet, identifier, lock=True)
    touch(versions, if_match)
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
