"""The request body: read within a limit, and parsed only as far as routing needs."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from stackserve.edge.asgi import Receive, Scope, header
from stackserve.errors import RequestRejected


class ClientGone(Exception):
    """The client closed the connection; nobody is left to answer."""


@dataclass(frozen=True)
class RoutedBody:
    """A JSON body of which `model` was read; every other field stays as the client wrote it."""

    model: str | None
    _fields: dict[str, msgspec.Raw]

    def __contains__(self, field: str) -> bool:
        return field in self._fields

    def with_model(self, name: str, *, stream: bool = False) -> bytes:
        """The body with another `model`, as a `stream` if so, and nothing else changed."""
        fields: dict[str, object] = {**self._fields, "model": name}
        return msgspec.json.encode({**fields, "stream": True} if stream else fields)

    def in_one_piece(self, name: str) -> bytes:
        """The body with another `model`, and for an answer that is no stream."""
        fields = {k: v for k, v in self._fields.items() if k not in ("stream", "stream_options")}
        return msgspec.json.encode({**fields, "model": name})


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body. Raises RequestRejected over `limit` bytes, ClientGone on a disconnect."""
    encoding = header(scope, b"content-encoding")
    if encoding not in (None, "identity"):
        raise RequestRejected(
            f"content-encoding {encoding!r} is not supported; send the JSON as it is",
            code="unsupported_encoding",
        )
    return await read_limited(scope, receive, limit)


async def read_limited(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body, whatever it is; one that is announced as too large is not read at all. Raises
    RequestRejected over `limit` bytes, ClientGone on a disconnect.
    """
    announced = header(scope, b"content-length")
    if announced is not None and announced.isdecimal() and int(announced) > limit:
        raise _too_large(limit)
    return await read_within(receive, limit, _too_large(limit))


async def read_within(receive: Receive, limit: int, too_large: RequestRejected) -> bytes:
    """The whole body, whatever it is. Raises `too_large` over `limit` bytes, ClientGone on a disconnect."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def parse_body(body: bytes, *, may_lack_model: bool = False) -> RoutedBody:
    """Find `model` in a JSON object. Raises RequestRejected when there is none, unless it may lack."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestRejected(
            f"the body is not a JSON object: {error}", code="invalid_json"
        ) from None
    if "model" not in fields:
        if may_lack_model:
            return RoutedBody(None, fields)
        raise RequestRejected(
            "model is required: name an inference key or model id; GET /v1/models lists them",
            code="model_required",
            param="model",
        )
    try:
        model = msgspec.json.decode(fields["model"], type=str)
    except msgspec.MsgspecError:
        raise RequestRejected(
            "model must be a string: an inference key or model id",
            code="model_required",
            param="model",
        ) from None
    return RoutedBody(model, fields)


def _too_large(limit: int) -> RequestRejected:
    return RequestRejected(
        f"the body is larger than {limit} bytes (server.max_body_mib)", code="body_too_large"
    )
