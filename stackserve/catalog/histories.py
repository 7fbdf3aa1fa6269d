"""Version histories: the groups that are versions of one another."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from stackserve.catalog.resources import find, new_id, now, touch
from stackserve.errors import Conflict, InvalidParameter, NotFound
from stackserve.store.tables import Group, VersionHistory

LATEST = "latestModelGroupId"


def create_history(
    session: Session, created_by: str, *, latest_group_id: str | None = None, **fields: Any
) -> VersionHistory:
    """With a group, which becomes its first version. Raises InvalidParameter."""
    moment = now()
    history = VersionHistory(
        id=new_id("datasciencemodelgroupversionhistory"),
        lifecycle_state="ACTIVE",
        lifecycle_details="",
        created_by=created_by,
        time_created=moment,
        time_updated=moment,
        revision=1,
        latest_version=0,
        **fields,
    )
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
    history = find(session, VersionHistory, identifier, lock=True)
    touch(history, if_match)
    latest = changes.pop("latest_group_id", None)
    if latest is not None:
        _adopt(session, history, latest)
    for column, value in changes.items():
        setattr(history, column, value)
    return history


def delete_history(session: Session, identifier: str, if_match: str | None) -> VersionHistory:
    """Raises NotFound, StaleEtag, and Conflict while it has groups."""
    history = find(session, VersionHistory, identifier, lock=True)
    touch(history, if_match)
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
    try:
        group = find(session, Group, group_id, lock=True)
    except NotFound as error:
        raise InvalidParameter(f"{LATEST}: {error.message}") from None
    if group.history_id not in (None, history.id):
        raise InvalidParameter(f"{LATEST}: group {group_id} is a version in {group.history_id}")
    if group.history_id is None:
        history.latest_version += 1
        group.history_id, group.version_id = history.id, history.latest_version
    history.latest_group_id = group_id
