"""OCI request signatures: what one says, and whether it is right. Pure: no clock, no files, no HTTP.

A signature covers the headers that it names, one `name: value` line each, and `(request-target)`,
which is the method in lower case and the path with its query. It is RSA PKCS#1 v1.5 over SHA-256.
A body is covered through its digest in `x-content-sha256`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from stackserve.errors import NotAuthenticated

SCHEME, ALGORITHM, VERSION = "Signature", "rsa-sha256", "1"
TARGET, DATE, OTHER_DATE, DIGEST = "(request-target)", "date", "x-date", "x-content-sha256"

ALWAYS_SIGNED = (TARGET, "host")
SIGNED_WITH_BODY = ("content-length", "content-type", DIGEST)
METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})

UPLOAD = re.compile(r"/20190101/(?:models|modelGroups)/[^/]+/artifact")
"""Where the official clients upload files, and sign no digest, for files may be larger than memory."""

PARAMETER = re.compile(r'\s*([A-Za-z]+)="([^"]*)"\s*(?:,|\Z)')
NEEDED = ("algorithm", "headers", "keyId", "signature", "version")


@dataclass(frozen=True)
class SignedRequest:
    """What of a request may be signed. `target` is the path with its query, as sent.

    Names of `headers` are in lower case; a header that was sent twice is there twice.
    """

    method: str
    target: str
    headers: Sequence[tuple[str, str]]

    @property
    def has_digest(self) -> bool:
        """Whether the client must have signed what is in its body."""
        if self.method not in METHODS_WITH_BODY:
            return False
        return not (self.method == "POST" and UPLOAD.fullmatch(self.target.partition("?")[0]))

    def header(self, name: str) -> str:
        """The one value of a header. Raises NotAuthenticated when there is none, or more than one."""
        values = [value for each, value in self.headers if each == name]
        if len(values) == 1:
            return values[0]
        if values:
            raise NotAuthenticated(f"the header {name} is there {len(values)} times; send it once")
        raise NotAuthenticated(
            f"the header {name} is signed but missing; send it, as it was signed"
        )


@dataclass(frozen=True)
class Signature:
    """What an `Authorization: Signature …` header says."""

    key_id: str
    headers: tuple[str, ...]
    value: bytes


def parse_signature(authorization: str) -> Signature:
    """Read the header's value. Raises NotAuthenticated."""
    given = _parameters(authorization)
    missing = [name for name in NEEDED if name not in given]
    if missing:
        raise NotAuthenticated(f"the signature has no {missing[0]}; it needs {', '.join(NEEDED)}")
    for name, only in (("algorithm", ALGORITHM), ("version", VERSION)):
        if given[name] != only:
            raise NotAuthenticated(
                f'the signature has {name}="{given[name]}"; only "{only}" is supported'
            )
    headers = tuple(given["headers"].lower().split())
    if len(set(headers)) != len(headers):
        raise NotAuthenticated("the signature names a header twice; name each once")
    try:
        value = base64.b64decode(given["signature"], validate=True)
    except (binascii.Error, ValueError):
        raise NotAuthenticated("the signature is not base64") from None
    return Signature(given["keyId"], headers, value)


def _parameters(authorization: str) -> dict[str, str]:
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() != SCHEME.lower():
        raise NotAuthenticated(f"expected `{SCHEME} …`")
    given: dict[str, str] = {}
    at = 0
    while at < len(rest):
        found = PARAMETER.match(rest, at)
        if found is None or found[1] in given:
            raise NotAuthenticated(
                'the authorization header cannot be read; it is `Signature name="value",…`, '
                "each name once"
            )
        given[found[1]] = found[2]
        at = found.end()
    return given


def check_covers(signature: Signature, request: SignedRequest) -> None:
    """Raises NotAuthenticated when a header that must be signed is not."""
    body = SIGNED_WITH_BODY if request.has_digest else ()
    dates = [name for name in (DATE, OTHER_DATE) if name in signature.headers]
    missing = [name for name in (*ALWAYS_SIGNED, *body) if name not in signature.headers]
    if not dates:
        missing.insert(0, DATE)
    if missing:
        raise NotAuthenticated(
            f"{', '.join(missing)} must be signed for {request.method}, and the signature covers "
            f"only: {' '.join(signature.headers) or 'nothing'}"
        )


def check_date(
    signature: Signature, request: SignedRequest, now: datetime, skew_seconds: float
) -> None:
    """Raises NotAuthenticated when the request was signed too long ago, or in the future.

    A signed `x-date` counts in place of `date`, as for clients that may not set `date`.
    """
    name = OTHER_DATE if OTHER_DATE in signature.headers else DATE
    written = request.header(name)
    try:
        date = parsedate_to_datetime(written)
    except (ValueError, TypeError, OverflowError, IndexError):
        raise NotAuthenticated(
            f"{name} {written!r} is not a date such as {format_datetime(now, usegmt=True)!r}"
        ) from None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    if abs((now - date).total_seconds()) > skew_seconds:
        raise NotAuthenticated(
            f"the request is dated {written}, and here it is {format_datetime(now, usegmt=True)}, "
            f"more than {skew_seconds:g} s apart; set the clock, or raise "
            "server.auth.clock_skew_seconds"
        )


def signing_string(signature: Signature, request: SignedRequest) -> bytes:
    """What was signed. Raises NotAuthenticated when a signed header is missing."""
    target = f"{request.method.lower()} {request.target}"
    lines = (
        f"{name}: {target if name == TARGET else request.header(name)}"
        for name in signature.headers
    )
    return "\n".join(lines).encode("latin-1")


def verify(signature: Signature, request: SignedRequest, key: RSAPublicKey) -> None:
    """Raises NotAuthenticated unless the key's owner has signed this request."""
    try:
        key.verify(signature.value, signing_string(signature, request), PKCS1v15(), SHA256())
    except InvalidSignature:
        raise NotAuthenticated(
            f"the signature does not fit {request.method} {request.target}: it was made with another "
            f"key, or one of {' '.join(signature.headers)} was changed on the way; proxies must keep "
            "them as they are"
        ) from None


def check_digest(request: SignedRequest, body: bytes) -> None:
    """Raises NotAuthenticated when the body is not the one that was signed."""
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    if not hmac.compare_digest(digest.encode(), request.header(DIGEST).encode()):
        raise NotAuthenticated(
            f"the body, {len(body)} bytes, does not have the SHA-256 that {DIGEST} says; sign the "
            "bytes that are sent"
        )
