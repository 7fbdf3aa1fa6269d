"""Domain errors as OpenAI error answers: the one translation."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from stackserve.errors import (
    EngineFailed,
    GroupNotReady,
    MemberRefused,
    ModelUnavailable,
    NotAuthenticated,
    Overloaded,
    RequestRejected,
    ShuttingDown,
    StackserveError,
    TookTooLong,
    UnknownDeployment,
    UnknownModel,
)

JSON = "application/json"


@dataclass(frozen=True)
class Kind:
    """How one class of errors looks on the wire."""

    status: int
    type: str
    param: str | None = None


KINDS: dict[type[StackserveError], Kind] = {
    NotAuthenticated: Kind(401, "authentication_error"),
    UnknownModel: Kind(404, "invalid_request_error", "model"),
    MemberRefused: Kind(404, "invalid_request_error", "model"),
    RequestRejected: Kind(400, "invalid_request_error"),
    GroupNotReady: Kind(503, "service_unavailable_error"),
    ModelUnavailable: Kind(503, "service_unavailable_error", "model"),
    ShuttingDown: Kind(503, "service_unavailable_error"),
    Overloaded: Kind(429, "rate_limit_error"),
    EngineFailed: Kind(502, "server_error"),
    UnknownDeployment: Kind(404, "invalid_request_error"),
    TookTooLong: Kind(504, "server_error"),
}
INTERNAL = Kind(500, "server_error")

STATUS_OF_CODE = {"model_too_large": 507, "body_too_large": 413, "unsupported_encoding": 415, "route_not_found": 404,
                  "method_not_allowed": 405}  # fmt: skip
"""RequestRejected covers several statuses; these codes are not 400."""


@dataclass(frozen=True)
class ErrorAnswer:
    """An error, ready to be sent."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def answer(error: StackserveError) -> ErrorAnswer:
    """The HTTP answer for an error."""
    kind = _kind(error)
    headers = [("content-type", JSON)]
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        headers.append(("retry-after", str(retry_after)))
    body = msgspec.json.encode({"error": _payload(error, kind)})
    return ErrorAnswer(STATUS_OF_CODE.get(error.code, kind.status), tuple(headers), body)


OCI_CODES = {
    400: "InvalidParameter",
    401: "NotAuthenticated",
    404: "NotAuthorizedOrNotFound",
    405: "MethodNotAllowed",
    413: "PayloadTooLarge",
    429: "TooManyRequests",
    503: "ServiceUnavailable",
}


def oci_answer(error: StackserveError) -> ErrorAnswer:
    """The answer for an error on a deployment's own paths: in OCI's shape, with OpenAI's in it."""
    told = answer(error)
    return ErrorAnswer(told.status, told.headers, oci_body(told.status, error.message, told.body))


def oci_body(status: int, message: str, body: bytes) -> bytes:
    """OpenAI's error body with OCI's `code` and `message` on top."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    code = OCI_CODES.get(status, "InternalServerError" if status >= 500 else "InvalidParameter")
    return msgspec.json.encode({"code": code, "message": message, **fields})


def error_body(sentence: str) -> bytes:
    """An error as the Open Inference Protocol words it: this and nothing else."""
    return msgspec.json.encode({"error": sentence})


def event(error: StackserveError) -> bytes:
    """The error as a server-sent event, for a stream whose status line is long gone.

    Chat and completion clients look for `error` in the data; the Responses API has an `error` event
    with the code and message on top: this is both.
    """
    kind = _kind(error)
    data = {
        "type": "error",
        "code": error.code,
        "message": error.message,
        "param": kind.param,
        "error": _payload(error, kind),
    }
    return b"event: error\ndata: " + msgspec.json.encode(data) + b"\n\n"


def _kind(error: StackserveError) -> Kind:
    return next((KINDS[c] for c in type(error).__mro__ if c in KINDS), INTERNAL)


def _payload(error: StackserveError, kind: Kind) -> dict[str, str | None]:
    param = kind.param or getattr(error, "param", None)
    return {"message": error.message, "type": kind.type, "param": param, "code": error.code}
