"""`/modelGroups/{id}/artifact`: what a homogeneous group runs, and any group as one zip."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from stackserve.catalog.artifacts import Shelf, find_artifact
from stackserve.catalog.groups import HETEROGENEOUS
from stackserve.catalog.resources import find
from stackserve.errors import Conflict
from stackserve.oci.call import Call, ThisCall
from stackserve.oci.content import MOST_UPLOADS, keep_artifact, upload_of, zip_response
from stackserve.oci.groups import group_view
from stackserve.store.database import Database
from stackserve.store.tables import Artifact, Group, GroupMember, Model

DESCRIPTION = "model-group.json"
GROUP_FILES = "group"


def group_artifact_routes(database: Database, shelf: Shelf) -> APIRouter:
    """Upload what a group runs, and download all of it."""
    routes = APIRouter(prefix="/modelGroups/{group_id}")
    upload_threads = CapacityLimiter(MOST_UPLOADS)

    def take(group_id: str, request: Request, call: Call) -> Response:
        with database.read() as session:
            if find(session, Group, group_id).type == HETEROGENEOUS:
                raise Conflict(f"group {group_id} is {HETEROGENEOUS}, which takes no artifact")
        arriving = shelf.receive(upload_of(request), of_group=True)
        return keep_artifact(database, call, Group, group_id, arriving)

    @routes.post("/artifact")
    async def upload(group_id: str, request: Request, call: ThisCall) -> Response:
        return await to_thread.run_sync(take, group_id, request, call, limiter=upload_threads)

    @routes.api_route("/artifact/content", methods=["GET", "HEAD"])
    def content(group_id: str, request: Request) -> Response:
        """Its description, its own artifact, and each member's in a folder of its model's id: all that
        is needed to make the same group elsewhere.
        """
        with database.read() as session:
            group = find(session, Group, group_id)
            files = list(_files(session, group, shelf))
            etag = f"{group.id}-{group.revision}"
        return zip_response(request, group.display_name, files, etag)

    return routes


def _files(session: Session, group: Group, shelf: Shelf) -> Iterator[tuple[str, Path | bytes]]:
    yield DESCRIPTION, json.dumps(group_view(session, group), indent=1).encode()
    if group.artifact_digest is not None:
        own = find_artifact(session, group.artifact_digest, f"group {group.id}")
        yield from _below(GROUP_FILES, own, shelf)
    query = select(Model.id, Artifact).join(Artifact, Artifact.digest == Model.artifact_digest)
    query = query.join(GroupMember, GroupMember.model_id == Model.id)
    query = query.where(GroupMember.group_id == group.id).order_by(GroupMember.position)
    for model_id, artifact in session.execute(query):
        yield from _below(f"models/{model_id}", artifact, shelf)


def _below(name: str, artifact: Artifact, shelf: Shelf) -> Iterator[tuple[str, Path | bytes]]:
    for file, path in shelf.files(artifact):
        yield f"{name}/{file}", path
