"""`/modelDeployments`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from stackserve.catalog import deployments as catalog
from stackserve.catalog.model_states import list_model_states
from stackserve.catalog.resources import find, list_page
from stackserve.catalog.retry_tokens import Answer
from stackserve.oci.call import (
    Call,
    ThisCall,
    add_move,
    json_answer,
    limit_of,
    list_answer,
    listing_of,
    page_answer,
    respond,
    transact,
    transact_once,
)
from stackserve.oci.deployment_bodies import NewDeployment, UpdatedDeployment
from stackserve.oci.wire import view
from stackserve.store.database import Database
from stackserve.store.tables import Deployment, WorkRequest

SHAPE = "stackserve.local"
ACCEPTED = 202

Change = Callable[[Session, str, str | None], tuple[Deployment, WorkRequest]]


@dataclass(frozen=True)
class ThisGateway:
    """The gateway that answers: its name, its URL, and how its deployments are told of news."""

    name: str
    url: str
    poke: Callable[[str], None]
    """With a deployment's id, from any thread."""


def deployment_routes(database: Database, gateway: ThisGateway) -> APIRouter:
    """Everything that the API does with deployments."""
    routes = APIRouter(prefix="/modelDeployments")
    _add_create(routes, database, gateway)
    _add_reads(routes, database, gateway)
    _add_update(routes, database, gateway)
    _add_changes(routes, database, gateway)
    add_move(routes, database, Deployment, status=204)
    return routes


def shape_routes() -> APIRouter:
    """`/modelDeploymentShapes`: this machine, as the only one."""
    routes = APIRouter()

    @routes.get("/modelDeploymentShapes")
    def show_all(request: Request) -> Response:
        listing_of(request)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        shape = {"name": SHAPE, "coreCount": os.cpu_count(), "memoryInGBs": round(memory, 1)}
        return page_answer([shape], None)

    return routes


def _add_create(routes: APIRouter, database: Database, gateway: ThisGateway) -> None:
    @routes.post("")
    def create(body: NewDeployment, call: ThisCall) -> Response:
        def work(session: Session) -> Answer:
            deployment, started = catalog.create_deployment(
                session,
                call.principal,
                gateway=gateway.name,
                url=gateway.url,
                group_id=body.group_id,
                configuration=body.configuration,
                **body.columns("modeldeployment"),
            )
            session.flush()
            return json_answer(deployment_view(deployment, gateway), deployment, started)

        response = transact_once(database, call, body, work)
        gateway.poke("")
        return response


def _add_reads(routes: APIRouter, database: Database, gateway: ThisGateway) -> None:
    def show(deployment: Deployment) -> dict[str, Any]:
        return deployment_view(deployment, gateway)

    @routes.get("/{deployment_id}")
    def get(deployment_id: str) -> Response:
        with database.read() as session:
            deployment = find(session, Deployment, deployment_id)
            return respond(json_answer(show(deployment), deployment))

    @routes.get("")
    def show_all(request: Request) -> Response:
        with database.read() as session:
            return list_answer(list_page(session, Deployment, listing_of(request)), show)

    @routes.get("/{deployment_id}/models/modelState")
    def model_states(deployment_id: str, request: Request) -> Response:
        asked = request.query_params
        listing_of(request)
        with database.read() as session:
            states, following = list_model_states(session, deployment_id, asked, limit_of(asked))
        return page_answer(states, following)


def _add_update(routes: APIRouter, database: Database, gateway: ThisGateway) -> None:
    @routes.put("/{deployment_id}")
    def update(deployment_id: str, body: UpdatedDeployment, call: ThisCall) -> Response:
        def work(session: Session) -> Answer:
            deployment = find(session, Deployment, deployment_id, lock=True)
            return _accepted(
                catalog.update_deployment(
                    session,
                    deployment_id,
                    call.if_match,
                    body.updates(),
                    group_id=body.group_id,
                    update_type=body.update_type,
                    configuration=body.merged_into(deployment.configuration),
                )
            )

        return _poking(gateway, deployment_id, transact(database, work))


def _add_changes(routes: APIRouter, database: Database, gateway: ThisGateway) -> None:
    def change(deployment_id: str, call: Call, what: Change) -> Response:
        def work(session: Session) -> Answer:
            return _accepted(what(session, deployment_id, call.if_match))

        return _poking(gateway, deployment_id, transact(database, work))

    @routes.post("/{deployment_id}/actions/activate")
    def activate(deployment_id: str, call: ThisCall) -> Response:
        return change(deployment_id, call, catalog.activate_deployment)

    @routes.post("/{deployment_id}/actions/deactivate")
    def deactivate(deployment_id: str, call: ThisCall) -> Response:
        return change(deployment_id, call, catalog.deactivate_deployment)

    @routes.post("/{deployment_id}/actions/rollback")
    def rollback(deployment_id: str, call: ThisCall) -> Response:
        """Not one of OCI's: back to the group that was served before, weights and policy."""
        return change(deployment_id, call, catalog.rollback_deployment)

    @routes.delete("/{deployment_id}")
    def delete(deployment_id: str, call: ThisCall) -> Response:
        return change(deployment_id, call, catalog.delete_deployment)


def _accepted(changed: tuple[Deployment, WorkRequest]) -> Answer:
    deployment, work = changed
    return json_answer(None, deployment, work, status=ACCEPTED)


def _poking(gateway: ThisGateway, deployment_id: str, response: Response) -> Response:
    gateway.poke(deployment_id)
    return response


def deployment_view(deployment: Deployment, gateway: ThisGateway) -> dict[str, Any]:
    """As OCI shows a deployment, with what it serves under `x-stackserve`."""
    here = deployment.gateway == gateway.name
    return {
        **view(deployment),
        "modelDeploymentConfigurationDetails": deployment.configuration,
        "modelDeploymentUrl": f"{gateway.url}/{deployment.id}" if here else deployment.url,
        "modelDeploymentSystemData": {
            "systemInfraType": "INSTANCE_POOL",
            "currentInstanceCount": 1 if deployment.wanted_state == "ACTIVE" else 0,
        },
        "x-stackserve": {
            "gateway": deployment.gateway,
            "servedModelGroupId": deployment.group_id,
            "previousModelGroupId": deployment.previous_group_id,
            "workRequestId": deployment.work_request_id,
        },
    }
