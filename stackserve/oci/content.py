"""Bytes in and out: artifacts as they are uploaded and downloaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import quote

from anyio import fail_after, from_thread
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session
from starlette.requests import ClientDisconnect

from stackserve.catalog.artifacts import refer
from stackserve.catalog.resources import changing
from stackserve.catalog.retry_tokens import Answer
from stackserve.catalog.work_requests import done_at_once
from stackserve.errors import RequestRejected
from stackserve.oci.call import Call, json_answer, transact
from stackserve.oci.errors import answer
from stackserve.store.archive import zip_of, zip_size
from stackserve.store.database import Database
from stackserve.store.tables import Artifact, Group, Model

RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
PLAIN = re.compile(r"[^A-Za-z0-9 ._-]")
ZIP = "application/zip"
MOST_UPLOADS = 32
"""At once to one kind of resource. They have threads of their own, so that slow ones hold up no other
call.
"""
MOST_SECONDS_STILL = 60.0
"""Between two pieces of an upload."""


def upload_of(request: Request) -> Iterator[bytes]:
    """The body of a request, for a thread that anyio runs; whatever its content type says.

    Raises RequestRejected when it breaks off or stands still.
    """
    stream = request.stream()

    async def piece() -> bytes | None:
        with fail_after(MOST_SECONDS_STILL):
            return await anext(stream, None)

    try:
        while (chunk := from_thread.run(piece)) is not None:
            yield chunk
    except ClientDisconnect:
        raise RequestRejected("the upload broke off; send it again") from None
    except TimeoutError:
        raise RequestRejected(
            f"nothing of the upload came for {MOST_SECONDS_STILL:.0f} s; send it again"
        ) from None


def keep_artifact(
    database: Database,
    call: Call,
    table: type[Model] | type[Group],
    identifier: str,
    arriving: AbstractContextManager[Artifact],
    operation: str | None = None,
) -> Response:
    """Take an artifact in, and in the same moment refer to it: half of it is never there. `operation` is
    that of the work request, where there is one.
    """
    with arriving as artifact:

        def work(session: Session) -> Answer:
            owner: Model | Group = changing(session, table, identifier, call.if_match)
            refer(session, owner, artifact)
            done = done_at_once(session, operation, "UPDATED", owner) if operation else None
            return json_answer(None, owner, done, status=204)

        return transact(database, work)


def zip_response(
    request: Request, name: str, files: Sequence[tuple[str, Path | bytes]], etag: str
) -> Response:
    """A zip of files, or of bytes, under these names; or the one range of it that is asked for."""
    size = zip_size(
        (name, len(source) if isinstance(source, bytes) else source.stat().st_size)
        for name, source in files
    )
    headers = {
        "content-disposition": _attachment(f"{name}.zip"),
        "accept-ranges": "bytes",
        "etag": etag,
    }
    asked = request.headers.get("range")
    start, end, status = 0, size, 200
    if asked is not None:
        found = _range(asked, size)
        if found is None:
            return answer(
                416, "InvalidParameter", f"range {asked[:64]} is not one of these {size} bytes"
            )
        start, end, status = *found, 206
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    headers["content-length"] = str(end - start)
    if request.method == "HEAD":
        return Response(None, status, headers, ZIP)
    return StreamingResponse(_cut(zip_of(files), start, end), status, headers, ZIP)


def _attachment(name: str) -> str:
    """A name of any characters, also for those who read only ASCII ones (RFC 6266)."""
    return f"attachment; filename=\"{PLAIN.sub('_', name)}\"; filename*=UTF-8''{quote(name, '')}"


def _range(asked: str, size: int) -> tuple[int, int] | None:
    """From and behind which byte; None for what there is not."""
    match = RANGE.fullmatch(asked.strip())
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    return (start, end) if start < end else None


def _cut(chunks: Iterator[bytes], start: int, end: int) -> Iterator[bytes]:
    """The bytes from `start` on, before `end`."""
    place = 0
    for chunk in chunks:
        piece = chunk[max(0, start - place) : max(0, end - place)]
        place += len(chunk)
        if piece:
            yield piece
        if place >= end:
            return
