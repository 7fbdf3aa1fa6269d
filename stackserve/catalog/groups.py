"""Model groups: immutable lists of models, in versions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from stackserve.catalog.artifacts import Shelf
from stackserve.catalog.deployments import uses_of_group
from stackserve.catalog.members import MemberEntry, check_members, with_base
from stackserve.catalog.models import ACTIVE
from stackserve.catalog.policy import read_engine, read_traffic
from stackserve.catalog.preflight import Finding, MemberArtifact, Preflight, check_stacked
from stackserve.catalog.resources import change, changing, find, find_named, new_resource
from stackserve.errors import Conflict, InvalidParameter
from stackserve.store.tables import Artifact, Group, GroupMember, Model, VersionHistory

STACKED, HOMOGENEOUS, HETEROGENEOUS = "STACKED", "HOMOGENEOUS", "HETEROGENEOUS"
MEMBERS = "memberModelEntries.memberModelDetails"
BASE = "modelGroupDetails.baseModelId"
SOURCE = "modelGroupCloneSourceDetails.sourceId"
PATCHES = "modelGroupCloneSourceDetails.patchModelGroupMemberModelDetails.items"
HISTORY = "modelGroupVersionHistoryId"
ADDED_BASE = "the base was not among the members and was added, without an inference key"
MOST_TOLD = 3


@dataclass(frozen=True)
class NewGroup:
    """A group that is wanted, whichever way it is described. `columns` are the names, tags and so on."""

    type: str
    members: tuple[MemberEntry, ...]
    base_model_id: str | None
    custom_metadata: tuple[dict[str, Any], ...]
    create_type: str
    source_group_id: str | None = None
    history_id: str | None = None
    version_label: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)


def plan_group(
    session: Session, wanted: NewGroup, shelf: Shelf
) -> tuple[tuple[MemberEntry, ...], bool, Preflight]:
    """The members as they will be, whether the base had to be added, and what is found wrong.

    Raises InvalidParameter for what is wrong with the list itself.
    """
    if wanted.type == STACKED and not wanted.base_model_id:
        raise InvalidParameter(
            f"{BASE} is required for a STACKED model group", code="missing_parameter"
        )
    if wanted.history_id is not None:
        find_named(session, VersionHistory, wanted.history_id, HISTORY)
    members, added = wanted.members, False
    place = PATCHES if wanted.source_group_id else MEMBERS
    check_members(members, place)
    if wanted.base_model_id is not None:
        members, added = with_base(members, wanted.base_model_id)
        check_members(members, place)
    keys = [member.key for member in members if member.key is not None]
    read_engine(wanted.custom_metadata)
    read_traffic(wanted.custom_metadata, keys)
    artifacts = _artifacts(session, members, SOURCE if wanted.source_group_id else BASE)
    if wanted.type != STACKED:
        return members, added, Preflight(tuple(_without(artifacts)), (), None)
    base = next(each for each in artifacts if each.model_id == wanted.base_model_id)
    adapters = [each for each in artifacts if each is not base]
    return members, added, check_stacked(base, adapters, shelf)


def create_group(session: Session, created_by: str, wanted: NewGroup, shelf: Shelf) -> Group:
    """Raises InvalidParameter, and Conflict for a model that is not active."""
    members, added, preflight = plan_group(session, wanted, shelf)
    _refuse(preflight.findings)
    group = new_resource(
        Group,
        "datasciencemodelgroup",
        created_by,
        ACTIVE,
        lifecycle_details=ADDED_BASE if added else "",
        type=wanted.type,
        base_model_id=wanted.base_model_id,
        custom_metadata=list(wanted.custom_metadata),
        version_id=1,
        version_label=wanted.version_label,
        create_type=wanted.create_type,
        source_group_id=wanted.source_group_id,
        **wanted.columns,
    )
    if wanted.history_id is not None:
        _number(session, group, wanted.history_id)
    session.add(group)
    session.flush()
    session.execute(insert(GroupMember), [_row(group, n, each) for n, each in enumerate(members)])
    return group


def update_group(
    session: Session, identifier: str, if_match: str | None, changes: dict[str, Any]
) -> Group:
    """Change names, tags and the label; a group without a history may join one, once.

    Raises NotFound, StaleEtag, InvalidParameter, Conflict.
    """
    group = changing(session, Group, identifier, if_match)
    joined = changes.pop("history_id", None)
    if joined is not None and joined != group.history_id:
        if group.history_id is not None:
            raise Conflict(f"{HISTORY}: {identifier} is in {group.history_id}")
        _number(session, group, joined)
    change(group, changes)
    return group


def delete_group(session: Session, identifier: str, if_match: str | None) -> Group:
    """Raises NotFound, StaleEtag, and Conflict while a deployment has it."""
    group = changing(session, Group, identifier, if_match)
    if used := uses_of_group(session, identifier):
        raise Conflict(
            f"group {identifier} is served, wanted or kept for a rollback by {', '.join(used[:3])}; "
            "delete that first, or update it twice"
        )
    if group.history_id is not None:
        history = find(session, VersionHistory, group.history_id, lock=True)
        if history.latest_group_id == identifier:
            history.latest_group_id = _latest(session, group.history_id, but=identifier)
    session.delete(group)
    return group


def entries_of(session: Session, group_id: str) -> tuple[MemberEntry, ...]:
    """The members of a group, in order."""
    query = select(GroupMember).where(GroupMember.group_id == group_id)
    rows = session.scalars(query.order_by(GroupMember.position))
    return tuple(MemberEntry(row.model_id, row.inference_key, row.unused) for row in rows)


def _artifacts(
    session: Session, members: Sequence[MemberEntry], otherwise: str
) -> list[MemberArtifact]:
    """Each member's artifact. `otherwise` is the field that brings in members without a place."""
    ids = [member.model_id for member in members]
    query = select(Model, Artifact).outerjoin(Artifact).where(Model.id.in_(ids))
    found = {model.id: (model, artifact) for model, artifact in session.execute(query)}
    checked = []
    for member in members:
        place = f"{member.place}.modelId" if member.place else otherwise
        if member.model_id not in found:
            raise InvalidParameter(f"{place}: there is no model {member.model_id[:128]}")
        model, artifact = found[member.model_id]
        if model.lifecycle_state != ACTIVE:
            raise Conflict(
                f"{place}: model {model.id} is {model.lifecycle_state}; activate it first"
            )
        checked.append(MemberArtifact(place, model.id, artifact))
    return checked


def _without(members: Sequence[MemberArtifact]) -> list[Finding]:
    return [
        Finding(
            each.place, "artifact_missing", f"model {each.model_id} has no artifact; upload one"
        )
        for each in members
        if each.artifact is None
    ]


def _refuse(findings: Sequence[Finding]) -> None:
    if findings:
        told = "; ".join(f"{f.field}: {f.message} ({f.code})" for f in findings[:MOST_TOLD])
        more = f"; and {len(findings) - MOST_TOLD} more" if len(findings) > MOST_TOLD else ""
        raise InvalidParameter(told + more, code=findings[0].code)


def _number(session: Session, group: Group, history_id: str) -> None:
    """Give a group the next number of a history, which is locked for it, and make it the latest."""
    history = find_named(session, VersionHistory, history_id, HISTORY, lock=True)
    history.latest_version += 1
    history.latest_group_id = group.id
    group.history_id, group.version_id = history_id, history.latest_version


def _latest(session: Session, history_id: str, but: str) -> str | None:
    query = select(Group.id).where(Group.history_id == history_id, Group.id != but)
    return session.scalar(query.order_by(Group.version_id.desc()).limit(1))


def _row(group: Group, position: int, member: MemberEntry) -> dict[str, Any]:
    return {
        "group_id": group.id,
        "position": position,
        "inference_key": member.key,
        "model_id": member.model_id,
        "unused": member.unused,
    }
