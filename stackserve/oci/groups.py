"""`/modelGroups`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from stackserve.catalog.artifacts import Shelf
from stackserve.catalog.groups import (
    NewGroup,
    create_group,
    delete_group,
    entries_of,
    plan_group,
    update_group,
)
from stackserve.catalog.histories import latest_of
from stackserve.catalog.members import patched
from stackserve.catalog.models import ACTIVE, INACTIVE, USER
from stackserve.catalog.resources import find, list_page, update
from stackserve.catalog.retry_tokens import Answer
from stackserve.catalog.work_requests import done_at_once
from stackserve.errors import InvalidParameter, NotFound
from stackserve.oci.call import (
    Call,
    ThisCall,
    add_move,
    json_answer,
    list_answer,
    listing_of,
    respond,
    transact,
    transact_once,
)
from stackserve.oci.group_bodies import CloneSource, NewGroupBody, UpdatedGroup
from stackserve.oci.wire import view
from stackserve.store.database import Database
from stackserve.store.tables import Artifact, Group, GroupMember, Model, VersionHistory

DRY_RUN = "x-stackserve-dry-run"


def group_routes(database: Database, shelf: Shelf) -> APIRouter:
    """Everything that the API does with groups but their artifacts."""
    routes = APIRouter(prefix="/modelGroups")
    _add_create(routes, database, shelf)
    _add_reads(routes, database)
    _add_changes(routes, database)
    add_move(routes, database, Group)
    return routes


def _add_create(routes: APIRouter, database: Database, shelf: Shelf) -> None:
    @routes.post("")
    def create(body: NewGroupBody, request: Request, call: ThisCall) -> Response:
        if request.headers.get(DRY_RUN, "").lower() == "true":
            with database.read() as session:
                return respond(json_answer(_dry_run(session, body, shelf)))

        def work(session: Session) -> Answer:
            group = create_group(session, call.principal, wanted_by(session, body), shelf)
            session.flush()
            done = done_at_once(session, "MODEL_GROUP_CREATE", "CREATED", group)
            return json_answer(group_view(session, group), group, done)

        return transact_once(database, call, body, work)


def _dry_run(session: Session, body: NewGroupBody, shelf: Shelf) -> dict[str, Any]:
    """What a creation would find, and what the group would cost."""
    members, _, preflight = plan_group(session, wanted_by(session, body), shelf)
    return {
        "dryRun": True,
        "wouldBeCreated": not preflight.findings,
        "members": len(members),
        **asdict(preflight),
    }


def wanted_by(session: Session, body: NewGroupBody) -> NewGroup:
    """The group that a request describes. Raises InvalidParameter."""
    if body.model_group_clone_source_details is not None and body.create_type == "CLONE":
        owner = {"compartment_id": body.compartment_id, "project_id": body.project_id}
        return _clone(session, body.model_group_clone_source_details, owner)
    details, members = body.model_group_details, body.member_model_entries
    assert details is not None
    assert members is not None
    return NewGroup(
        type=details.type,
        members=members.entries(),
        base_model_id=details.base_model_id,
        custom_metadata=details.metadata,
        create_type="CREATE",
        columns=body.columns("modelgroup"),
        **body.history_columns(),
    )


def _clone(session: Session, source: CloneSource, owner: dict[str, Any]) -> NewGroup:
    """What a clone does not change is its source's."""
    place = "modelGroupCloneSourceDetails"
    try:
        by_group = source.model_group_clone_source_type == "MODEL_GROUP"
        identifier = source.source_id if by_group else latest_of(session, source.source_id)
        group = find(session, Group, identifier)
    except NotFound as error:
        raise InvalidParameter(f"{place}.sourceId: {error.message}") from None
    changes = source.modify_model_group_details
    details = changes.model_group_details if changes else None
    if details and (details.type, details.base_model_id or group.base_model_id) != (
        group.type,
        group.base_model_id,
    ):
        raise InvalidParameter(
            f"{place}.modifyModelGroupDetails.modelGroupDetails: a clone keeps the type "
            f"({group.type}) and the base ({group.base_model_id}); create a new group for another"
        )
    patch = source.patch_model_group_member_model_details
    members = entries_of(session, group.id)
    inherited = {
        "display_name": group.display_name,
        "description": group.description,
        "freeform_tags": group.freeform_tags,
        "defined_tags": group.defined_tags,
        "unused": group.unused,
    }
    metadata = tuple(group.custom_metadata)
    if details is not None and details.custom_metadata_list is not None:
        metadata = details.metadata
    history = {"history_id": group.history_id, **(changes.history_columns() if changes else {})}
    return NewGroup(
        type=group.type,
        members=patched(members, patch.patches() if patch else (), group.base_model_id),
        base_model_id=group.base_model_id,
        custom_metadata=metadata,
        create_type="CLONE",
        source_group_id=group.id,
        columns={**inherited, **owner, **(changes.changes() if changes else {})},
        **history,
    )


def _add_reads(routes: APIRouter, database: Database) -> None:
    @routes.get("/{group_id}")
    def get(group_id: str) -> Response:
        with database.read() as session:
            group = find(session, Group, group_id)
            return respond(json_answer(group_view(session, group), group))

    @routes.get("")
    def show_all(request: Request) -> Response:
        listing = listing_of(request, modelGroupVersionHistoryId="history_id")
        with database.read() as session:
            page = list_page(session, Group, listing)
            names = _history_names(session, page.rows)
            return list_answer(page, lambda group: group_summary(group, names))

    @routes.get("/{group_id}/models")
    def models(group_id: str, request: Request) -> Response:
        with database.read() as session:
            find(session, Group, group_id)
            among = select(Model).join(GroupMember, GroupMember.model_id == Model.id)
            among = among.where(GroupMember.group_id == group_id)
            page = list_page(session, Model, listing_of(request), among)
            keys = {each.model_id: each.key for each in entries_of(session, group_id)}
            references = _references(session, page.rows)
            return list_answer(page, lambda model: _member_view(model, keys, references))


def _references(session: Session, models: Any) -> set[str]:
    digests = [model.artifact_digest for model in models if model.artifact_digest]
    query = select(Artifact.digest).where(
        Artifact.digest.in_(digests), Artifact.folder.is_not(None)
    )
    return set(session.scalars(query))


def _member_view(model: Model, keys: dict[str, str | None], references: set[str]) -> dict[str, Any]:
    return {
        **view(model),
        "modelId": model.id,
        "inferenceKey": keys[model.id],
        "category": USER,
        "isModelByReference": model.artifact_digest in references,
    }


def _add_changes(routes: APIRouter, database: Database) -> None:
    @routes.put("/{group_id}")
    def put(group_id: str, body: UpdatedGroup, call: ThisCall) -> Response:
        def work(session: Session) -> Answer:
            changes = {**body.updates(), **body.history_columns()}
            group = update_group(session, group_id, call.if_match, changes)
            session.flush()
            done = done_at_once(session, "MODEL_GROUP_UPDATE", "UPDATED", group)
            return json_answer(group_view(session, group), group, done)

        return transact(database, work)

    @routes.delete("/{group_id}")
    def delete(group_id: str, call: ThisCall) -> Response:
        def work(session: Session) -> Answer:
            group = delete_group(session, group_id, call.if_match)
            done = done_at_once(session, "MODEL_GROUP_DELETE", "DELETED", group)
            return json_answer(None, work=done, status=204)

        return transact(database, work)

    def set_state(group_id: str, call: Call, state: str) -> Response:
        """An inactive one goes on being served where it is, and no deployment takes it."""

        def work(session: Session) -> Answer:
            group = update(session, Group, group_id, call.if_match, {"lifecycle_state": state})
            done = done_at_once(session, "MODEL_GROUP_UPDATE", "UPDATED", group)
            return json_answer(group_view(session, group), group, done)

        return transact(database, work)

    @routes.post("/{group_id}/actions/activate")
    def activate(group_id: str, call: ThisCall) -> Response:
        return set_state(group_id, call, ACTIVE)

    @routes.post("/{group_id}/actions/deactivate")
    def deactivate(group_id: str, call: ThisCall) -> Response:
        return set_state(group_id, call, INACTIVE)


def _history_names(session: Session, groups: Any) -> dict[str, str]:
    ids = {group.history_id for group in groups if group.history_id}
    query = select(VersionHistory.id, VersionHistory.display_name)
    return {
        row.id: row.display_name for row in session.execute(query.where(VersionHistory.id.in_(ids)))
    }


def group_summary(group: Group, history_names: dict[str, str]) -> dict[str, Any]:
    """As OCI shows a group in a list: without its members."""
    details: dict[str, Any] = {
        "type": group.type,
        "customMetadataList": group.custom_metadata,  # never null: oracle-ads iterates over it
    }
    if group.base_model_id is not None:
        details["baseModelId"] = group.base_model_id
    return {
        **view(group),
        "modelGroupDetails": details,
        "modelGroupVersionHistoryId": group.history_id,
        "modelGroupVersionHistoryName": history_names.get(group.history_id or ""),
        "versionLabel": group.version_label,
        "versionId": group.version_id,
        "createType": group.create_type,
        "sourceModelGroupId": group.source_group_id,
    }


def group_view(session: Session, group: Group) -> dict[str, Any]:
    """As OCI shows a group."""
    members = []
    for entry in entries_of(session, group.id):
        shown = {**entry.unused, "modelId": entry.model_id}
        if entry.key is not None:
            shown["inferenceKey"] = entry.key
        members.append(shown)
    return {
        **group_summary(group, _history_names(session, [group])),
        "memberModelEntries": {"memberModelDetails": members},
    }
