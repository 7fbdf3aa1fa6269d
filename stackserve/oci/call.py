"""One call of the API: who makes it, and what its headers ask for."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy.orm import Session

from stackserve.catalog.resources import Listing, Page, R, etag, update
from stackserve.catalog.retry_tokens import Answer, once
from stackserve.errors import InvalidParameter
from stackserve.oci.wire import ChangeCompartment, Wire
from stackserve.store.database import Database
from stackserve.store.tables import Resource, WorkRequest

FILTERS = {
    "id": "id",
    "compartmentId": "compartment_id",
    "projectId": "project_id",
    "displayName": "display_name",
    "lifecycleState": "lifecycle_state",
    "createdBy": "created_by",
}
SORT_ORDERS = {"ASC": True, "DESC": False}


@dataclass(frozen=True)
class Call:
    principal: str
    if_match: str | None
    retry_token: str | None
    path: str


def _call(request: Request) -> Call:
    return Call(
        principal=request.scope.get("state", {}).get("principal", "local"),
        if_match=request.headers.get("if-match"),
        retry_token=request.headers.get("opc-retry-token"),
        path=request.scope["path"],
    )


ThisCall = Annotated[Call, Depends(_call)]


def json_answer(
    body: Any, row: Resource | None = None, work: WorkRequest | None = None, status: int = 200
) -> Answer:
    """A JSON answer, with the etag of a resource and the id of the work on it."""
    headers = {} if row is None else {"etag": etag(row)}
    if work is not None:
        headers["opc-work-request-id"] = work.id
    return Answer(status, "" if body is None else json.dumps(body), headers)


def respond(answer: Answer) -> Response:
    return Response(
        answer.body,
        answer.status,
        headers=answer.headers,
        media_type="application/json" if answer.body else None,
    )


def transact(database: Database, work: Callable[[Session], Answer]) -> Response:
    """Do the work of a call in one transaction, and answer it."""
    return respond(database.transact(work))


def transact_once(
    database: Database, call: Call, body: Wire | None, work: Callable[[Session], Answer]
) -> Response:
    """As `transact`, and a call that comes twice with the same retry token is done once."""
    if call.retry_token is None:
        return transact(database, work)
    asked = f"{call.principal} {call.path} {call.retry_token}"
    token = hashlib.sha256(asked.encode()).hexdigest()
    content = body.model_dump_json(by_alias=True, exclude_unset=True) if body else ""
    digest = hashlib.sha256(content.encode()).hexdigest()
    return transact(database, lambda session: once(session, token, digest, lambda: work(session)))


def add_move(routes: APIRouter, database: Database, table: type[R], status: int = 200) -> None:
    """`…/{identifier}/actions/changeCompartment`, which all resources have alike."""

    @routes.post("/{identifier}/actions/changeCompartment")
    def move(identifier: str, body: ChangeCompartment, call: ThisCall) -> Response:
        def work(session: Session) -> Answer:
            columns = {"compartment_id": body.compartment_id}
            row = update(session, table, identifier, call.if_match, columns)
            return json_answer(None, row, status=status)

        return transact_once(database, call, body, work)


def listing_of(request: Request, **more_filters: str) -> Listing:
    """What a list is asked for; `more_filters` are further columns by their name on the wire.

    Raises InvalidParameter.
    """
    asked = request.query_params
    check_compartment(asked)
    order = asked.get("sortOrder", "DESC")
    if order not in SORT_ORDERS:
        raise InvalidParameter(f"sortOrder is {order!r}; give ASC or DESC")
    columns = FILTERS | more_filters
    return Listing(
        where={columns[name]: value for name, value in asked.items() if name in columns},
        sort_by=asked.get("sortBy", "timeCreated"),
        ascending=SORT_ORDERS[order],
        limit=limit_of(asked),
        page=asked.get("page"),
    )


def check_compartment(asked: Mapping[str, str]) -> None:
    """Every list is of a compartment. Raises InvalidParameter."""
    if not asked.get("compartmentId"):
        raise InvalidParameter("compartmentId is required", code="missing_parameter")


def limit_of(asked: Mapping[str, str]) -> int:
    limit = asked.get("limit", "100")
    if not limit.isdecimal() or len(limit) > 9:
        raise InvalidParameter(f"limit is {limit!r}; give a number")
    return int(limit)


def list_answer(page: Page[R], show: Callable[[R], Any]) -> Response:
    return page_answer([show(row) for row in page.rows], page.next)


def page_answer(rows: Sequence[Any], following: str | None) -> Response:
    headers = {"opc-next-page": following} if following else {}
    return respond(Answer(200, json.dumps(rows), headers))


def request_id(asked: str | None) -> str:
    """The caller's id of a request, and ours behind it."""
    ours = uuid.uuid4().hex.upper()
    return f"{asked[:98]}/{ours}" if asked else ours
