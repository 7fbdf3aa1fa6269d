"""`/modelVersionSets`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import false, select
from sqlalchemy.orm import Session

from stackserve.catalog.models import USER, create_version_set, delete_version_set
from stackserve.catalog.resources import find, list_page, update
from stackserve.catalog.retry_tokens import Answer
from stackserve.oci.call import (
    ThisCall,
    add_move,
    json_answer,
    list_answer,
    listing_of,
    respond,
    transact,
    transact_once,
)
from stackserve.oci.wire import Described, Name, NewOfProject, view
from stackserve.store.database import Database
from stackserve.store.tables import ModelVersionSet


class NewVersionSet(NewOfProject):
    name: Name


def version_set_routes(database: Database) -> APIRouter:
    """Create, get, list, update, move and delete sets of model versions."""
    routes = APIRouter(prefix="/modelVersionSets")
    _add_reads(routes, database)
    _add_changes(routes, database)
    add_move(routes, database, ModelVersionSet)
    return routes


def _add_reads(routes: APIRouter, database: Database) -> None:
    @routes.get("/{version_set_id}")
    def get(version_set_id: str) -> Response:
        with database.read() as session:
            versions = find(session, ModelVersionSet, version_set_id)
            return respond(json_answer(version_set_view(versions), versions))

    @routes.get("")
    def show_all(request: Request) -> Response:
        listing = listing_of(request, name="display_name")
        if listing.sort_by == "name":
            listing = replace(listing, sort_by="displayName")
        among = select(ModelVersionSet)
        if request.query_params.get("category", USER) != USER:
            among = among.where(false())
        with database.read() as session:
            page = list_page(session, ModelVersionSet, listing, among)
            return list_answer(page, version_set_view)


def _add_changes(routes: APIRouter, database: Database) -> None:
    @routes.post("")
    def create(body: NewVersionSet, call: ThisCall) -> Response:
        def work(session: Session) -> Answer:
            columns = {**body.columns(""), "display_name": body.name}
            versions = create_version_set(session, call.principal, **columns)
            session.flush()
            return json_answer(version_set_view(versions), versions)

        return transact_once(database, call, body, work)

    @routes.put("/{version_set_id}")
    def put(version_set_id: str, body: Described, call: ThisCall) -> Response:
        def work(session: Session) -> Answer:
            changes = body.updates()
            versions = update(session, ModelVersionSet, version_set_id, call.if_match, changes)
            return json_answer(version_set_view(versions), versions)

        return transact(database, work)

    @routes.delete("/{version_set_id}")
    def delete(
        version_set_id: str,
        call: ThisCall,
        with_models: Annotated[bool, Query(alias="isDeleteRelatedModels")] = False,
    ) -> Response:
        def work(session: Session) -> Answer:
            delete_version_set(session, version_set_id, call.if_match, with_models=with_models)
            return json_answer(None, status=204)

        return transact(database, work)


def version_set_view(versions: ModelVersionSet) -> dict[str, Any]:
    return {**view(versions), "name": versions.display_name, "category": USER}
