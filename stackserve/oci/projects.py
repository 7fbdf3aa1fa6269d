"""`/projects`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from stackserve.catalog.projects import create_project, delete_project
from stackserve.catalog.resources import find, list_page, update
from stackserve.catalog.retry_tokens import Answer
from stackserve.catalog.work_requests import done_at_once
from stackserve.oci.call import (
    ThisCall,
    json_answer,
    list_answer,
    listing_of,
    respond,
    transact,
    transact_once,
)
from stackserve.oci.wire import Described, NewResource, view
from stackserve.store.database import Database
from stackserve.store.tables import Project


def project_routes(database: Database) -> APIRouter:
    """Create, get, list, update and delete projects."""
    routes = APIRouter()

    @routes.post("/projects")
    def create(body: NewResource, call: ThisCall) -> Response:
        def work(session: Session) -> Answer:
            project = create_project(session, call.principal, **body.columns("project"))
            session.flush()
            return json_answer(view(project), project)

        return transact_once(database, call, body, work)

    @routes.get("/projects/{project_id}")
    def get(project_id: str) -> Response:
        with database.read() as session:
            project = find(session, Project, project_id)
            return respond(json_answer(view(project), project))

    @routes.get("/projects")
    def show_all(request: Request) -> Response:
        with database.read() as session:
            return list_answer(list_page(session, Project, listing_of(request)), view)

    @routes.put("/projects/{project_id}")
    def put(project_id: str, body: Described, call: ThisCall) -> Response:
        def work(session: Session) -> Answer:
            project = update(session, Project, project_id, call.if_match, body.updates())
            return json_answer(view(project), project)

        return transact(database, work)

    @routes.delete("/projects/{project_id}")
    def delete(project_id: str, call: ThisCall) -> Response:
        def work(session: Session) -> Answer:
            project = delete_project(session, project_id, call.if_match)
            done = done_at_once(session, "PROJECT_DELETE", "DELETED", project)
            return json_answer(None, work=done, status=204)

        return transact(database, work)

    return routes
