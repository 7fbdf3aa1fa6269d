"""`/modelGroupVersionHistory`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from stackserve.catalog.histories import create_history, delete_history, update_history
from stackserve.catalog.resources import find, list_page
from stackserve.catalog.retry_tokens import Answer
from stackserve.catalog.work_requests import done_at_once
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
from stackserve.oci.wire import Described, NewOfProject, Ocid, Wire, view
from stackserve.store.database import Database
from stackserve.store.tables import VersionHistory


class Latest(Wire):
    latest_model_group_id: Ocid | None = None


class NewHistory(Latest, NewOfProject):
    pass


class UpdatedHistory(Latest, Described):
    pass


def history_routes(database: Database) -> APIRouter:
    """Create, get, list, update, move and delete version histories."""
    routes = APIRouter(prefix="/modelGroupVersionHistory")
    _add_reads(routes, database)
    _add_changes(routes, database)
    add_move(routes, database, VersionHistory)
    return routes


def _add_reads(routes: APIRouter, database: Database) -> None:
    @routes.get("/{history_id}")
    def get(history_id: str) -> Response:
        with database.read() as session:
            history = find(session, VersionHistory, history_id)
            return respond(json_answer(history_view(history), history))

    @routes.get("")
    def show_all(request: Request) -> Response:
        with database.read() as session:
            page = list_page(session, VersionHistory, listing_of(request))
            return list_answer(page, history_view)


def _add_changes(routes: APIRouter, database: Database) -> None:
    @routes.post("")
    def create(body: NewHistory, call: ThisCall) -> Response:
        def work(session: Session) -> Answer:
            history = create_history(
                session,
                call.principal,
                latest_group_id=body.latest_model_group_id,
                **body.columns("modelgroupversionhistory"),
            )
            session.flush()
            return json_answer(history_view(history), history)

        return transact_once(database, call, body, work)

    @routes.put("/{history_id}")
    def update(history_id: str, body: UpdatedHistory, call: ThisCall) -> Response:
        def work(session: Session) -> Answer:
            changes = {**body.updates(), "latest_group_id": body.latest_model_group_id}
            history = update_history(session, history_id, call.if_match, changes)
            return json_answer(history_view(history), history)

        return transact(database, work)

    @routes.delete("/{history_id}")
    def delete(history_id: str, call: ThisCall) -> Response:
        def work(session: Session) -> Answer:
            history = delete_history(session, history_id, call.if_match)
            operation = "MODEL_GROUP_VERSION_HISTORY_DELETE"
            done = done_at_once(session, operation, "DELETED", history)
            return json_answer(None, work=done, status=204)

        return transact(database, work)


def history_view(history: VersionHistory) -> dict[str, Any]:
    return {**view(history), "latestModelGroupId": history.latest_group_id}
