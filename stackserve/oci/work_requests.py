"""`/workRequests`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from stackserve.catalog.resources import offset_page
from stackserve.catalog.retry_tokens import Answer
from stackserve.catalog.work_requests import Status, cancel, find_work
from stackserve.errors import Conflict, InvalidParameter
from stackserve.oci.call import (
    ThisCall,
    check_compartment,
    json_answer,
    limit_of,
    page_answer,
    respond,
    transact,
)
from stackserve.oci.wire import rfc3339
from stackserve.store.database import Database
from stackserve.store.tables import WorkRequest, WorkRequestLine

FILTERS = {"id": WorkRequest.id, "compartmentId": WorkRequest.compartment_id,
           "resourceId": WorkRequest.resource_id, "status": WorkRequest.status,
           "operationType": WorkRequest.operation_type}  # fmt: skip
SORTABLE = {"timeAccepted": WorkRequest.time_accepted, "status": WorkRequest.status,
            "operationType": WorkRequest.operation_type}  # fmt: skip


def work_request_routes(database: Database) -> APIRouter:
    """Get, list and cancel work requests, and read their logs and errors."""
    routes = APIRouter()

    @routes.get("/workRequests/{work_request_id}")
    def get(work_request_id: str) -> Response:
        with database.read() as session:
            work = find_work(session, work_request_id)
            answer = json_answer(work_view(work))
        if not Status(work.status).is_final:
            answer.headers["retry-after"] = "1"
        return respond(answer)

    @routes.get("/workRequests")
    def show_all(request: Request) -> Response:
        with database.read() as session:
            rows, following = _page(session, request)
            return page_answer([work_view(work) for work in rows], following)

    @routes.get("/workRequests/{work_request_id}/logs")
    def logs(work_request_id: str, request: Request) -> Response:
        return _lines(database, work_request_id, request, errors=False)

    @routes.get("/workRequests/{work_request_id}/errors")
    def errors(work_request_id: str, request: Request) -> Response:
        return _lines(database, work_request_id, request, errors=True)

    @routes.delete("/workRequests/{work_request_id}")
    def stop(work_request_id: str, call: ThisCall) -> Response:
        def work(session: Session) -> Answer:
            found = find_work(session, work_request_id, lock=True)
            if found.status != Status.ACCEPTED:
                raise Conflict(
                    f"work request {work_request_id} is {found.status}; only one that nobody has "
                    "begun can be cancelled"
                )
            cancel(found)
            return json_answer(None, status=204)

        return transact(database, work)

    return routes


def work_view(work: WorkRequest) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": work.id,
        "operationType": work.operation_type,
        "status": work.status,
        "compartmentId": work.compartment_id,
        "percentComplete": work.percent_complete,
        "resources": [
            {
                "actionType": work.action_type if Status(work.status).is_final else "IN_PROGRESS",
                "entityType": work.entity_type,
                "identifier": work.resource_id,
            }
        ],
        "timeAccepted": rfc3339(work.time_accepted),
    }
    for name, moment in (("timeStarted", work.time_started), ("timeFinished", work.time_finished)):
        if moment is not None:
            shown[name] = rfc3339(moment)
    return shown


def _page(session: Session, request: Request) -> tuple[list[WorkRequest], str | None]:
    asked = request.query_params
    check_compartment(asked)
    key = SORTABLE.get(asked.get("sortBy", "timeAccepted"))
    if key is None:
        raise InvalidParameter(f"sortBy is {asked['sortBy']!r}; give one of {', '.join(SORTABLE)}")
    query = select(WorkRequest)
    for name, column in FILTERS.items():
        if name in asked:
            query = query.where(column == asked[name])
    ascending = asked.get("sortOrder", "DESC") == "ASC"
    order = (key.asc(), WorkRequest.id.asc()) if ascending else (key.desc(), WorkRequest.id.desc())
    return _slice(session, query.order_by(*order), request)


def _lines(database: Database, identifier: str, request: Request, *, errors: bool) -> Response:
    with database.read() as session:
        find_work(session, identifier)
        query = select(WorkRequestLine).where(
            WorkRequestLine.work_request_id == identifier,
            WorkRequestLine.code.is_not(None) if errors else WorkRequestLine.code.is_(None),
        )
        rows, following = _slice(session, query.order_by(WorkRequestLine.number), request)
    return page_answer([_line_view(row) for row in rows], following)


def _line_view(line: WorkRequestLine) -> dict[str, Any]:
    shown = {"message": line.message, "timestamp": rfc3339(line.time)}
    return shown if line.code is None else {"code": line.code, **shown}


def _slice(session: Session, query: Any, request: Request) -> tuple[list[Any], str | None]:
    asked = request.query_params
    rows, following = offset_page(session, query, limit_of(asked), asked.get("page", "0"))
    return [row for (row,) in rows], following
