"""The three callables of ASGI, typed once, and the answers that are sent through them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

Headers = Iterable[tuple[str, str]]


def header(scope: Scope, name: bytes) -> str | None:
    """The value of a request header (`name` in lower case), or None."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return None


async def send_start(send: Send, status: int, headers: Headers) -> None:
    """The status line and headers."""
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def send_part(send: Send, part: bytes, *, last: bool) -> None:
    """A part of the body."""
    await send({"type": "http.response.body", "body": part, "more_body": not last})


async def send_whole(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """A complete answer."""
    await send_start(send, status, (*headers, ("content-length", str(len(body)))))
    await send_part(send, body, last=True)
