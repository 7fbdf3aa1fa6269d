"""Tells from a request's headers who sent it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from stackserve.auth.bind import check_bind
from stackserve.auth.keys import Keys, read_keys, user_of
from stackserve.auth.signature import (
    SCHEME,
    SignedRequest,
    check_covers,
    check_date,
    parse_signature,
    verify,
)
from stackserve.errors import NotAuthenticated
from stackserve.server_settings import AuthSettings, ServerSettings

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
    """What the settings ask of a sender, and the keys of those who are known."""

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
