"""The guard in front of the application: it lets requests through whose sender is known.

The sender's name goes with the request, as `scope["state"]["principal"]`. A signature is checked
before the body is read, so that strangers cannot fill the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stackserve.auth.authenticator import Authenticator
from stackserve.auth.signature import SignedRequest, check_digest
from stackserve.edge.asgi import send_whole
from stackserve.edge.body import ClientGone, read_within
from stackserve.edge.errors import error_body, oci_answer
from stackserve.errors import NotAuthenticated, RequestRejected, StackserveError
from stackserve.server_settings import ServerSettings

MIB = 2**20

OPEN = frozenset({"/livez", "/readyz", "/metrics"})
"""What a machine's keeper asks, who has no key."""


class Guard:
    """An ASGI application around another: it answers those 401 whom it does not know.

    The bodies of signed requests, at most `body_limit` bytes, are read to the end before they are
    handed on; all others are handed on as they come.
    """

    def __init__(
        self,
        app: ASGIApp,
        authenticator: Authenticator,
        body_limit: int,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self.body_limit = body_limit
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        try:
            caller = self._authenticator.caller(_signed_request(scope), self._now())
            if caller.signed is not None:
                body = await read_within(receive, self.body_limit, self._too_large())
                check_digest(caller.signed, body)
                receive = _replay(body, receive)
        except (NotAuthenticated, RequestRejected) as error:
            await self._refuse(scope["path"], send, error)
        except ClientGone:
            return
        else:
            scope["state"] = {**scope.get("state", {}), "principal": caller.name}
            await self._app(scope, receive, send)

    def _too_large(self) -> RequestRejected:
        return RequestRejected(
            f"the body is larger than {self.body_limit} bytes, the most that this server takes",
            code="body_too_large",
        )

    async def _refuse(self, path: str, send: Send, error: StackserveError) -> None:
        """As the clients of that path read it: OpenAI's, those of the Open Inference Protocol, OCI's."""
        told = oci_answer(error)
        body = told.body if path.startswith("/v1") or "/predict" in path else oci_only(told.body)
        if path == "/v2" or path.startswith("/v2/"):
            body = error_body(error.message)
        schemes = self._authenticator.schemes if told.status == 401 else ()
        challenges = tuple(("www-authenticate", scheme) for scheme in schemes)
        await send_whole(send, told.status, (*told.headers, *challenges), body)


def guarded(app: ASGIApp, authenticator: Authenticator | None, server: ServerSettings) -> ASGIApp:
    """The application behind a guard, unless everybody is let in."""
    if authenticator is None:
        return app
    return Guard(app, authenticator, max(server.max_body_mib, server.predict_max_body_mib) * MIB)


def _signed_request(scope: Scope) -> SignedRequest:
    target = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
    query = scope["query_string"].decode("latin-1")
    headers = [
        (name.decode("latin-1").lower(), value.decode("latin-1"))
        for name, value in scope["headers"]
    ]
    return SignedRequest(scope["method"].upper(), f"{target}?{query}" if query else target, headers)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hands on the body at first, and then whatever comes: that the client goes away."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return left.pop() if left else await receive()

    return replay


def oci_only(body: bytes) -> bytes:
    """An error without OpenAI's part."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return msgspec.json.encode({name: fields[name] for name in ("code", "message")})
