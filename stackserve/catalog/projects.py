"""Projects: what models and groups belong to."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from stackserve.catalog.resources import changing, new_resource
from stackserve.errors import Conflict
from stackserve.store.tables import Deployment, Group, Model, Project


def create_project(session: Session, created_by: str, **columns: Any) -> Project:
    """`columns`: compartment_id, display_name, description, tags, unused."""
    project = new_resource(Project, "datascienceproject", created_by, "ACTIVE", **columns)
    session.add(project)
    return project


def delete_project(session: Session, identifier: str, if_match: str | None) -> Project:
    """Raises NotFound, StaleEtag, and Conflict while something belongs to it."""
    project = changing(session, Project, identifier, if_match)
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
