"""Version histories: the groups that are versions of one another."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from stackserve.catalog.resources import change, changing, find, find_named, new_resource
from stackserve.errors import Conflict, InvalidParameter
from stackserve.store.tables import Group, VersionHistory

LATEST = "latestModelGroupId"


def create_history(
    session: Session, created_by: str, *, latest_group_id: str | None = None, **columns: Any
) -> VersionHistory:
    """With a group, which becomes its first version. Raises InvalidParameter."""
    kind = "datasciencemodelgroupversionhistory"
    history = new_resource(VersionHistory, kind, created_by, "ACTIVE", latest_version=0, **columns)
    session.add(history)
    session.flush()
    if latest_group_id is not None:
        _adopt(session, history, latest_group_id)
    return history


def update_history(
    session: Session, identifier: str, if_match: str | None, changes: dict[str, Any]
) -> VersionHistory:
    """Change columns; another latest group is one of its versions, or becomes the next.

    Raises NotFound, StaleEtag, InvalidParameter.
    """
    history = changing(session, VersionHistory, identifier, if_match)
    latest = changes.pop("latest_group_id", None)
    if latest is not None:
        _adopt(session, history, latest)
    change(history, changes)
    return history


def delete_history(session: Session, identifier: str, if_match: str | None) -> VersionHistory:
    """Raises NotFound, StaleEtag, and Conflict while it has groups."""
    history = changing(session, VersionHistory, identifier, if_match)
    query = select(func.count()).select_from(Group).where(Group.history_id == identifier)
    if held := session.scalar(query):
        raise Conflict(f"version history {identifier} has {held} groups; delete them first")
    session.delete(history)
    return history


def latest_of(session: Session, identifier: str) -> str:
    """The latest group of a history. Raises NotFound, and Conflict when it has none."""
    history = find(session, VersionHistory, identifier)
    if history.latest_group_id is None:
        raise Conflict(f"version history {identifier} has no group yet")
    return history.latest_group_id


def _adopt(session: Session, history: VersionHistory, group_id: str) -> None:
    group = find_named(session, Group, group_id, LATEST, lock=True)
    if group.history_id not in (None, history.id):
        raise InvalidParameter(f"{LATEST}: group {group_id} is a version in {group.history_id}")
    if group.history_id is None:
        history.latest_version += 1
        group.history_id, group.version_id = history.id, history.latest_version
    history.latest_group_id = group_id
