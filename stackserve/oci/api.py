"""The application behind `/20190101`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from fastapi import APIRouter, FastAPI, Request, Response

from stackserve.oci.call import request_id
from stackserve.oci.errors import add_error_handlers

PREFIX = "/20190101"


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
        response = await go_on(request)
        response.headers["opc-request-id"] = request_id(request.headers.get("opc-request-id"))
        return response

    return api
