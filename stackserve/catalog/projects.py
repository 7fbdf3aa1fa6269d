"""Projects: what models and groups belong to."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from stackserve.catalog.resources import find, new_id, now, touch
from stackserve.errors import Conflict
from stackserve.store.tables import Deployment, Group, Model, Project


def create_project(session: Session, created_by: str, **fields: Any) -> Project:
    """`fields` are columns: compartment_id, display_name, description, tags, unused."""
    moment = now()
    project = Project(
        id=new_id("datascienceproject"),
        lifecycle_state="ACTIVE",
        lifecycle_details="",
        created_by=created_by,
        time_created=moment,
        time_updated=moment,
        revision=1,
        **fields,
    )
    session.add(project)
    return project


def update_project(
    session: Session, identifier: str, if_match: str | None, changes: dict[str, Any]
) -> Project:
    """Change columns. Raises NotFound, StaleEtag."""
    project = find(session, Project, identifier, lock=True)
    touch(project, if_match)
    for column, value in changes.items():
        setattr(project, column, value)
    return project


def delete_project(session: Session, identifier: str, if_match: str | None) -> Project:
    """Raises NotFound, StaleEtag, and Conflict while something belongs to it."""
    project = find(session, Project, identifier, lock=True)
    touch(project, if_match)
    for table in (Model, Group, Deployment):
        held = session.scalar(
            select(func.count()).select_from(table).where(table.project_id == identifier)
        )
        if held:
            raise Conflict(
                f"project {identifier} still has {held} {table.__tablename__}; delete them first"
            )
    session.delete(project)
    return project
