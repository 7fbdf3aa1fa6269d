"""Bytes in and out: artifacts as they are uploaded and downloaded."""

from __future__ import annotations

import re
from collections.abc import Iterator

from anyio import from_thread
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from stackserve.oci.errors import answer

RANGE = re.compile(r"bytes=(\d*)-(\d*)")
ZIP = "application/zip"


def upload_of(request: Request) -> Iterator[bytes]:
    """The body of a request, for a thread that FastAPI runs; whatever its content type says."""
    stream = request.stream()

    async def piece() -> bytes | None:
        return await anext(stream, None)

    while (chunk := from_thread.run(piece)) is not None:
        yield chunk


def zip_response(
    request: Request, name: str, size: int, chunks: Iterator[bytes], etag: str
) -> Response:
    """A zip of so many bytes, or the one range of it that is asked for."""
    headers = {
        "content-disposition": f'attachment; filename="{name}.zip"',
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
    return StreamingResponse(_cut(chunks, start, end), status, headers, ZIP)


def _range(asked: str, size: int) -> tuple[int, int] | None:
    """From and behind which byte; None for what there is not."""
    match = RANGE.fullmatch(asked.strip())
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
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
