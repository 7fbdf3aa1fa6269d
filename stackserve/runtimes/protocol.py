"""What the gateway and a runtime worker say to each other, over a socket pair.

A frame is a header of `HEAD.size` bytes (how long the two parts after it are), a message, and its body.
Models are named by numbers, which the gateway gives out and never uses twice. Every message that asks
has an id, and exactly one message answers it.

The transport and its alternatives were measured: docs/decisions.md.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from stackserve.runtimes.base import Metadata

HEAD = struct.Struct("<IQ")
"""Bytes of the message, and of the body."""

MOST_MESSAGE = 1 << 20
"""Bytes. A longer message means that the two do not understand each other."""


class RuntimeSpec(msgspec.Struct, frozen=True):
    """All that a runtime worker needs to start; one line of JSON on its standard input."""

    runtime: str
    """The name of a runtime, see `registry`."""
    socket_fd: int
    recorder_fd: int
    lanes: int
    """Requests, or batches of them, computed at once."""
    loaders: int
    """Models loaded at once."""
    threads: int
    """That one lane may use."""
    memory_bytes: int | None
    """Of data, which the process may not exceed."""
    most_body: int
    """Bytes of a request's body once it is unpacked."""
    allow_unsafe: bool


class Batching(msgspec.Struct, frozen=True, array_like=True):
    """How requests of one model are put together."""

    max_rows: int = 64
    max_delay: float = 0.0
    """Seconds that the first of a batch waits for others, unless it is alone."""


class Estimate(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """How many bytes will this model take?"""

    id: int
    model: int
    folder: str
    options: dict[str, Any]


class Load(msgspec.Struct, frozen=True, array_like=True, tag=2):
    id: int
    model: int
    folder: str
    options: dict[str, Any]
    batching: Batching


class Unload(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Of a model that no request is under way for. An unknown one is unloaded already."""

    id: int
    model: int


class Infer(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The body is that of an inference request as it came over HTTP."""

    id: int
    model: int
    name: str
    version: str
    json_bytes: int | None = None
    """The Inference-Header-Content-Length."""
    encoding: str | None = None
    """The body's Content-Encoding."""
    accept: str | None = None
    """The encoding of the answer: gzip, deflate or None."""


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Nobody waits for this id any more. It is answered all the same, or not."""

    id: int


Question = Estimate | Load | Unload | Infer | Cancel


class Started(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """The first message: the framework is imported."""

    id: int
    framework: str
    """Its name and version."""


class Estimated(msgspec.Struct, frozen=True, array_like=True, tag=12):
    id: int
    num_bytes: int


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag=13):
    id: int
    metadata: Metadata
    grown: int
    """Bytes by which the process grew meanwhile; 0 where that says nothing of this model."""


class Unloaded(msgspec.Struct, frozen=True, array_like=True, tag=14):
    id: int


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """What was asked of a model's files could not be done."""

    id: int
    code: str
    message: str


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """To `Infer`; the body is that of the HTTP answer. Times are in nanoseconds."""

    id: int
    status: int
    json_bytes: int | None = None
    encoding: str | None = None
    rows: int = 0
    leads: bool = True
    """False for all but one of the requests that were computed together."""
    queue_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0


Reply = Started | Estimated | Loaded | Unloaded | Failed | Answer

_encoder = msgspec.msgpack.Encoder()


def frame(message: Question | Reply, body_bytes: int = 0) -> bytes:
    """A message's frame up to its body."""
    encoded = _encoder.encode(message)
    return HEAD.pack(len(encoded), body_bytes) + encoded
