"""Domain errors as OCI's error answers, `{"code", "message"}`: the one translation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from stackserve.errors import (
    ArtifactRejected,
    Conflict,
    InvalidParameter,
    NotFound,
    NotNow,
    RequestRejected,
    RetryTokenReused,
    StackserveError,
    StaleEtag,
    StoreUnavailable,
)

logger = logging.getLogger(__name__)

KINDS: dict[type[StackserveError], tuple[int, str]] = {
    InvalidParameter: (400, "InvalidParameter"),
    ArtifactRejected: (400, "InvalidParameter"),
    RequestRejected: (400, "InvalidParameter"),
    NotFound: (404, "NotAuthorizedOrNotFound"),
    Conflict: (409, "Conflict"),
    NotNow: (409, "IncorrectState"),
    RetryTokenReused: (409, "InvalidatedRetryToken"),
    StaleEtag: (412, "NoEtagMatch"),
    StoreUnavailable: (503, "ServiceUnavailable"),
}
"""The SDK asks again by itself after IncorrectState and ServiceUnavailable, and after nothing else of
these.
"""

INTERNAL = (500, "InternalServerError")
PAYLOAD_TOO_LARGE = (413, "PayloadTooLarge")
HTTP_CODES = {404: "NotAuthorizedOrNotFound", 405: "MethodNotAllowed", 411: "LengthRequired"}


def add_error_handlers(app: FastAPI) -> None:
    """Have every error of the application answered in OCI's way."""
    app.add_exception_handler(StackserveError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_bug)


def answer(status: int, code: str, message: str, **more: Any) -> Response:
    return JSONResponse({"code": code, "message": message, **more}, status)


async def _on_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, StackserveError)
    status, code = next((KINDS[c] for c in type(error).__mro__ if c in KINDS), INTERNAL)
    if error.code == "body_too_large":
        status, code = PAYLOAD_TOO_LARGE
    return answer(status, code, error.message, reason=error.code)


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    kinds = {problem["type"] for problem in problems}
    if "json_invalid" in kinds:
        return answer(400, "CannotParseRequest", "the body is not JSON")
    code = "MissingParameter" if kinds == {"missing"} else "InvalidParameter"
    return answer(400, code, "; ".join(_sentence(problem) for problem in problems[:3]))


def _sentence(problem: Any) -> str:
    place = _place(problem["loc"])
    if problem["type"] == "missing":
        return f"{place} is required"
    if problem["type"] == "value_error":
        return f"{place}: {problem['ctx']['error']}"
    given = repr(problem["input"])
    return (
        f"{place}: {problem['msg']}, and it is {given if len(given) < 100 else given[:100] + '…'}"
    )


def _place(location: Sequence[str | int]) -> str:
    """`memberModelEntries.memberModelDetails.3.inferenceKey`, without the names of our own variants."""
    parts = [str(part) for part in location if part not in ("body", "query", "header")]
    return ".".join(part for part in parts if not part.isupper()) or "the body"


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = HTTP_CODES.get(error.status_code, "InvalidParameter")
    what = f"{request.method} {request.scope['path']}"
    message = {404: f"there is no operation {what}", 405: f"{what} is not allowed"}
    return answer(error.status_code, code, message.get(error.status_code, str(error.detail)))


async def _on_bug(request: Request, error: Exception) -> Response:
    logger.error("%s %s broke", request.method, request.scope["path"], exc_info=error)
    return answer(*INTERNAL, "internal error; the server's log says more")
