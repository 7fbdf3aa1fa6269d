"""`/models` and what is below."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request, Response
from pydantic import Field
from sqlalchemy import false, select
from sqlalchemy.orm import Session

from stackserve.catalog.artifacts import Shelf, find_artifact
from stackserve.catalog.models import (
    ACTIVE,
    INACTIVE,
    USER,
    create_model,
    delete_model,
    update_model,
)
from stackserve.catalog.resources import find, list_page, update
from stackserve.catalog.retry_tokens import Answer
from stackserve.errors import InvalidParameter
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
from stackserve.oci.content import MOST_UPLOADS, keep_artifact, upload_of, zip_response
from stackserve.oci.wire import (
    Described,
    Name,
    NewOfProject,
    Ocid,
    Text,
    Wire,
    view,
)
from stackserve.store.database import Database
from stackserve.store.tables import Artifact, Model, ModelVersionSet

LOCAL_FOLDER = "LOCAL_FOLDER"
NOT_OFFERED = (
    "upload the artifact (POST …/artifact), or register a local folder (stackserve model add)"
)


class Metadata(Wire):
    key: Name
    value: Text | None = None


class ModelFields(Wire):
    custom_metadata_list: list[Metadata] | None = Field(None, max_length=64)
    defined_metadata_list: list[Metadata] | None = Field(None, max_length=64)
    model_version_set_id: Ocid | None = None
    version_label: Name | None = None

    def model_columns(self) -> dict[str, Any]:
        """The columns of these fields, of those that were given."""
        columns: dict[str, Any] = {}
        for column, entries in (
            ("custom_metadata", self.custom_metadata_list),
            ("defined_metadata", self.defined_metadata_list),
        ):
            if entries is not None:
                columns[column] = [e.model_dump(by_alias=True, exclude_unset=True) for e in entries]
        if self.model_version_set_id is not None:
            columns["version_set_id"] = self.model_version_set_id
        if self.version_label is not None:
            columns["version_label"] = self.version_label
        return columns


class NewModel(ModelFields, NewOfProject):
    pass


class UpdatedModel(ModelFields, Described):
    pass


class Reference(Wire):
    model_artifact_reference_type: str
    path: Text | None = None


class References(Wire):
    model_artifact_references: list[Reference] = Field(min_length=1, max_length=1)


def model_routes(database: Database, shelf: Shelf) -> APIRouter:
    """Everything that the API does with models."""
    routes = APIRouter(prefix="/models")
    _add_reads(routes, database)
    _add_changes(routes, database)
    _add_actions(routes, database)
    add_move(routes, database, Model)
    _add_artifact(routes, database, shelf)
    return routes


def _add_reads(routes: APIRouter, database: Database) -> None:
    @routes.get("/{model_id}")
    def get(model_id: str) -> Response:
        with database.read() as session:
            model = find(session, Model, model_id)
            return respond(json_answer(model_view(session, model), model))

    @routes.get("")
    def show_all(request: Request) -> Response:
        listing = listing_of(request, versionLabel="version_label")
        with database.read() as session:
            among = select(Model)
            if name := request.query_params.get("modelVersionSetName"):
                among = among.join(ModelVersionSet).where(ModelVersionSet.display_name == name)
            if request.query_params.get("category", USER) != USER:
                among = among.where(false())
            page = list_page(session, Model, listing, among)
            return list_answer(page, lambda model: model_view(session, model))


def _add_changes(routes: APIRouter, database: Database) -> None:
    @routes.post("")
    def create(body: NewModel, call: ThisCall) -> Response:
        def work(session: Session) -> Answer:
            columns = {**body.columns("model"), **body.model_columns()}
            model = create_model(session, call.principal, **columns)
            session.flush()
            return json_answer(model_view(session, model), model)

        return transact_once(database, call, body, work)

    @routes.put("/{model_id}")
    def put(model_id: str, body: UpdatedModel, call: ThisCall) -> Response:
        def work(session: Session) -> Answer:
            changes = {**body.updates(), **body.model_columns()}
            model = update_model(session, model_id, call.if_match, changes)
            return json_answer(model_view(session, model), model)

        return transact(database, work)

    @routes.delete("/{model_id}")
    def delete(model_id: str, call: ThisCall) -> Response:
        def work(session: Session) -> Answer:
            delete_model(session, model_id, call.if_match)
            return json_answer(None, status=204)

        return transact(database, work)


def _add_actions(routes: APIRouter, database: Database) -> None:
    def set_state(model_id: str, call: Call, state: str) -> Response:
        """An inactive one goes on being served where it is, and no new group takes it."""

        def work(session: Session) -> Answer:
            columns = {"lifecycle_state": state}
            model = update(session, Model, model_id, call.if_match, columns)
            return json_answer(model_view(session, model), model)

        return transact(database, work)

    @routes.post("/{model_id}/actions/activate")
    def activate(model_id: str, call: ThisCall) -> Response:
        return set_state(model_id, call, ACTIVE)

    @routes.post("/{model_id}/actions/deactivate")
    def deactivate(model_id: str, call: ThisCall) -> Response:
        return set_state(model_id, call, INACTIVE)


def _add_artifact(routes: APIRouter, database: Database, shelf: Shelf) -> None:
    upload_threads = CapacityLimiter(MOST_UPLOADS)

    def take(
        model_id: str, call: Call, arriving: AbstractContextManager[Artifact], operation: str
    ) -> Response:
        with database.read() as session:
            find(session, Model, model_id)
        return keep_artifact(database, call, Model, model_id, arriving, operation)

    @routes.post("/{model_id}/artifact")
    async def upload(model_id: str, request: Request, call: ThisCall) -> Response:
        arriving = shelf.receive(upload_of(request))
        operation = "IMPORT_MODEL_ARTIFACT"
        return await to_thread.run_sync(
            take, model_id, call, arriving, operation, limiter=upload_threads
        )

    @routes.post("/{model_id}/actions/registerArtifactReference")
    def register(model_id: str, body: References, call: ThisCall) -> Response:
        (reference,) = body.model_artifact_references
        if reference.model_artifact_reference_type != LOCAL_FOLDER or not reference.path:
            raise InvalidParameter(
                "modelArtifactReferences.0.modelArtifactReferenceType is "
                f"{reference.model_artifact_reference_type}; give {LOCAL_FOLDER} and a path, or "
                "upload the artifact"
            )
        return take(model_id, call, shelf.register(reference.path), "REGISTER_MODEL_ARTIFACT")

    @routes.post("/{model_id}/actions/importArtifact")
    @routes.post("/{model_id}/actions/exportArtifact")
    def transfer(model_id: str) -> Response:
        raise InvalidParameter(f"object storage is not offered for {model_id}; {NOT_OFFERED}")

    @routes.api_route("/{model_id}/artifact/content", methods=["GET", "HEAD"])
    def content(model_id: str, request: Request) -> Response:
        with database.read() as session:
            model = find(session, Model, model_id)
            artifact = find_artifact(session, model.artifact_digest, f"model {model_id}")
        return zip_response(request, model.display_name, shelf.files(artifact), artifact.digest)


def model_view(session: Session, model: Model) -> dict[str, Any]:
    """As OCI shows a model, with what is known of its artifact under `x-stackserve`."""
    versions = session.get(ModelVersionSet, model.version_set_id) if model.version_set_id else None
    artifact = session.get(Artifact, model.artifact_digest) if model.artifact_digest else None
    shown: dict[str, Any] = {
        "retentionSetting": None,
        "backupSetting": None,
        "retentionOperationDetails": None,
        "backupOperationDetails": None,
        **view(model),
        "customMetadataList": model.custom_metadata,
        "definedMetadataList": model.defined_metadata,
        "modelVersionSetId": model.version_set_id,
        "modelVersionSetName": versions.display_name if versions else None,
        "versionId": model.version_id,
        "versionLabel": model.version_label,
        "category": USER,
        "isModelByReference": bool(artifact and artifact.folder),
    }
    if artifact is not None:
        facts = {name: value for name, value in artifact.facts.items() if name != "stamps"}
        shown["x-stackserve"] = {
            "artifactDigest": artifact.digest,
            "kind": artifact.kind,
            "sizeBytes": artifact.size_bytes,
            "facts": facts,
        }
    return shown
