"""The data plane of the OCI kind: a deployment is asked under its OCID.

/{ocid}/predict                          what the body asks for, or the header `route`
/{ocid}/predictWithResponseStream        as a stream
/{ocid}/predict…/v1/chat/completions     OpenAI's routes
/{ocid}/predict/v1/models                its models
"""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stackserve.edge.asgi import Receive, Scope, Send, header, send_whole
from stackserve.edge.errors import oci_answer
from stackserve.edge.models import cards
from stackserve.edge.relay import NEEDED_TASK, Call, Relay
from stackserve.errors import RequestRejected, StackserveError
from stackserve.routing.snapshot import Routes

PATH = re.compile(
    r"/(?P<address>ocid1\.[^/]+)/(?P<kind>predict|predictWithResponseStream)(?P<rest>/v1/.+)?"
)
STREAMING = {"true": True, "false": False}


class Predict:
    """An ASGI endpoint for the paths of all deployments."""

    def __init__(self, relay: Relay, max_body: int, timeout: float) -> None:
        self._relay = relay
        self._max_body = max_body
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            call = self._call(scope)
        except StackserveError as error:
            told = oci_answer(error)
            await send_whole(send, told.status, told.headers, told.body)
            return
        await self._relay.relay(call, scope, receive, send)

    def _call(self, scope: Scope) -> Call:
        match = PATH.fullmatch(scope["path"])
        if match is None:
            raise RequestRejected(f"no route {scope['path']}", code="route_not_found")
        path = match["rest"] or header(scope, b"route")
        if path is not None and path not in NEEDED_TASK:
            where = "the path" if match["rest"] else "the header route"
            raise RequestRejected(
                f"{where} names {path[:64]}; served are {', '.join(NEEDED_TASK)}",
                code="route_not_found",
            )
        asked = header(scope, b"enable-streaming") or "false"
        if asked.lower() not in STREAMING:
            raise RequestRejected(
                f"the header enable-streaming is {asked[:16]!r}; give true or false"
            )
        return Call(
            route="predict",
            path=path,
            max_body=self._max_body,
            address=match["address"],
            key=header(scope, b"model-key"),
            stream=match["kind"] != "predict" or STREAMING[asked.lower()],
            timeout=self._timeout,
        )


def predict_routes(predict: Predict, routes: Routes, created: int) -> list[Route]:
    """The paths of deployments, for the gateway's application."""

    async def models(request: Request) -> Response:
        try:
            snapshot = routes.current
            way = snapshot.resolve_at(request.path_params["address"], None)
        except StackserveError as error:
            told = oci_answer(error)
            return Response(told.body, told.status, dict(told.headers))
        group = snapshot.groups[way.gate.group]
        return JSONResponse({"object": "list", "data": cards(group, created)})

    kinds = ("predict", "predictWithResponseStream")
    return [
        Route("/{address}/predict/v1/models", models),
        *(Route(f"/{{address}}/{kind}", predict, methods=["POST"]) for kind in kinds),
        *(
            Route(f"/{{address}}/{kind}/v1/{{rest:path}}", predict, methods=["POST"])
            for kind in kinds
        ),
    ]
