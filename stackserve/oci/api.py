"""The application behind `/20190101`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from fastapi import APIRouter, FastAPI, Request, Response

from stackserve.control.storefront import Store
from stackserve.oci.call import request_id
from stackserve.oci.deployments import ThisGateway, deployment_routes, shape_routes
from stackserve.oci.errors import add_error_handlers, answer
from stackserve.oci.group_artifacts import group_artifact_routes
from stackserve.oci.groups import group_routes
from stackserve.oci.histories import history_routes
from stackserve.oci.models import model_routes
from stackserve.oci.projects import project_routes
from stackserve.oci.version_sets import version_set_routes
from stackserve.oci.work_requests import work_request_routes

PREFIX = "/20190101"


def control_plane(store: Store, gateway: ThisGateway) -> FastAPI:
    """All of it, over a store."""
    database, shelf = store.database, store.shelf
    return build_api(
        (
            project_routes(database),
            model_routes(database, shelf),
            version_set_routes(database),
            group_routes(database, shelf),
            group_artifact_routes(database, shelf),
            history_routes(database),
            deployment_routes(database, gateway),
            shape_routes(),
            work_request_routes(database),
        )
    )


def build_api(routers: Iterable[APIRouter]) -> FastAPI:
    """Join the routes of all resources; every answer carries `opc-request-id`."""
    api = FastAPI(title="stackserve", openapi_url=None, docs_url=None, redoc_url=None)
    for router in routers:
        api.include_router(router)
    add_error_handlers(api)

    @api.middleware("http")
    async def tell_request_id(
        request: Request, go_on: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        if "\0" in request.scope["path"] or b"%00" in request.scope["query_string"]:
            response = answer(400, "InvalidParameter", "the path or the query has a NUL in it")
        else:
            response = await go_on(request)
        response.headers["opc-request-id"] = request_id(request.headers.get("opc-request-id"))
        return response

    return api
