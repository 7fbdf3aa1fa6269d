"""The guard in front of the application: it lets requests through whose sender is known.

The sender's name goes with the request, as `scope["state"]["principal"]`. A signature is checked
before the body is read, so that strangers cannot fill the memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stackserve.auth.bind import check_bind
from stackserve.auth.keys import Keys, read_keys, user_of
from stackserve.auth.signature import (
    SCHEME,
    SignedRequest,
    check_covers,
    check_date,
    check_digest,
    parse_signature,
    verify,
)
from stackserve.errors import NotAuthenticated, RequestRejected
from stackserve.server_settings import AuthSettings, ServerSettings

MIB = 2**20

OPEN = frozenset({"/livez", "/readyz", "/metrics"})
"""What a machine's keeper asks, who has no key."""

CHALLENGE = {
    "oci": 'Signature realm="stackserve",algorithm="rsa-sha256"',
    "bearer": 'Bearer realm="stackserve"',
}


@dataclass(frozen=True)
class Caller:
    """Who sent a request; with a `signed`, the body is theirs only if `check_digest` says so."""

    name: str
    signed: SignedRequest | None = None


@dataclass(frozen=True)
class Authenticator:
    """Tells from a request's headers who sent it."""

    auth: AuthSettings
    keys: Keys

    @property
    def schemes(self) -> tuple[str, ...]:
        """The ways to show who one is, as `www-authenticate` names them."""
        signs = self.auth.mode == "oci"
        return (
            *((CHALLENGE["oci"],) if signs else ()),
            *((CHALLENGE["bearer"],) if self.keys.bearers else ()),
        )

    def caller(self, request: SignedRequest, now: datetime) -> Caller:
        """Raises NotAuthenticated."""
        if not any(name == "authorization" for name, _ in request.headers):
            raise NotAuthenticated(f"there is no authorization header; {self._remedy}")
        authorization = request.header("authorization")
        scheme, _, rest = authorization.partition(" ")
        if scheme.lower() == "bearer" and self.keys.bearers:
            return Caller(self.keys.bearer(rest.strip()))
        if scheme.lower() == SCHEME.lower() and self.auth.mode == "oci":
            return self._signer(authorization, request, now)
        raise NotAuthenticated(f"this kind of authorization is not taken here; {self._remedy}")

    def _signer(self, authorization: str, request: SignedRequest, now: datetime) -> Caller:
        signature = parse_signature(authorization)
        check_covers(signature, request)
        key = self.keys.public_key(signature.key_id)
        check_date(signature, request, now, self.auth.clock_skew_seconds)
        verify(signature, request, key)
        return Caller(user_of(signature.key_id), request if request.has_digest else None)

    @property
    def _remedy(self) -> str:
        ways = ["sign the request as OCI's clients do"] if self.auth.mode == "oci" else []
        if self.keys.bearers:
            ways.append("send `Authorization: Bearer <key>`")
        return ", or ".join(ways)


class ClientGone(Exception):
    """The client closed the connection; nobody is left to answer."""


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
                body = await _read(receive, self.body_limit)
                check_digest(caller.signed, body)
                receive = _replay(body, receive)
        except NotAuthenticated as error:
            await self._refuse(scope, send, 401, "NotAuthenticated", error.message)
        except RequestRejected as error:
            await self._refuse(scope, send, 413, "PayloadTooLarge", error.message)
        except ClientGone:
            return
        else:
            scope["state"] = {**scope.get("state", {}), "principal": caller.name}
            await self._app(scope, receive, send)

    async def _refuse(self, scope: Scope, send: Send, status: int, code: str, message: str) -> None:
        schemes = self._authenticator.schemes if status == 401 else ()
        body = _error_body(scope["path"], status, code, message)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *((b"www-authenticate", scheme.encode()) for scheme in schemes),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def open_authenticator(
    server: ServerSettings, locate: Callable[[str], Path], *, store_open: bool
) -> Authenticator | None:
    """What the settings ask for; None when everybody is let in.

    Raises ConfigError: see `check_bind` and `read_keys`.
    """
    check_bind(server.host, server.auth, store_open=store_open)
    if server.auth.mode == "none":
        return None
    return Authenticator(server.auth, read_keys(server.auth, locate))


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


async def _read(receive: Receive, limit: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > limit:
            raise RequestRejected(
                f"the body is larger than {limit} bytes, the most that this server takes",
                code="body_too_large",
            )
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hands on the body at first, and then whatever comes: that the client goes away."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return left.pop() if left else await receive()

    return replay


def _error_body(path: str, status: int, code: str, message: str) -> bytes:
    """The error as OCI's clients read it, and as OpenAI's do where those come."""
    error: dict[str, object] = {"code": code, "message": message}
    if path.startswith("/v1") or "/predict" in path:
        kind = "authentication_error" if status == 401 else "invalid_request_error"
        slug = "not_authenticated" if status == 401 else "body_too_large"
        error["error"] = {"message": message, "type": kind, "param": None, "code": slug}
    return json.dumps(error).encode()
