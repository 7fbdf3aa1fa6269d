"""Bodies that are compressed on their way: gzip, and deflate with and without zlib's header."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from stackserve.runtimes.oip_errors import BadRequest, TooLarge, shown

Buffer = bytes | memoryview

GZIP, ZLIB, RAW = 31, 15, -15
"""zlib's window bits, which say what is around the stream."""
LEVEL = 1
"""Tensors shrink little with more effort, and the caller waits for it."""


def inflate(body: Buffer, encoding: str, limit: int) -> bytes:
    """The body, unpacked; never more than `limit` bytes are. Raises BadRequest and TooLarge."""
    name = encoding.strip().lower()
    if name == "gzip":
        return _unpacked(body, GZIP, limit)
    if name == "deflate":
        # Of a raw stream these bits would be padding, which is zero.
        return _unpacked(body, ZLIB if body[:1] and body[0] & 15 == 8 else RAW, limit)
    raise BadRequest(
        f"The Content-Encoding {shown(encoding)} is not supported; send gzip, deflate or none."
    )


def deflate(parts: Iterable[Buffer], encoding: str) -> bytes:
    """The parts as one compressed body; `encoding` is gzip or deflate."""
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, {"gzip": GZIP, "deflate": ZLIB}[encoding])
    return b"".join([*map(packer.compress, parts), packer.flush()])


def _unpacked(body: Buffer, bits: int, limit: int) -> bytes:
    stream = zlib.decompressobj(bits)
    try:
        unpacked = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadRequest(
            f"The body cannot be unpacked ({error}); compress it again, or send it as it is."
        ) from error
    if len(unpacked) > limit:
        raise TooLarge(
            f"The body holds more than {limit} bytes once it is unpacked; send smaller requests."
        )
    if not stream.eof:
        raise BadRequest("The compressed body ends too early; send all of it.")
    if stream.unused_data:
        raise BadRequest("Bytes follow the compressed body; compress all of it as one stream.")
    return unpacked
