"""Where an ONNX file keeps tensors outside of itself, found before onnxruntime opens anything.

This reads as much of the protobuf as that takes, so that no `onnx` package is needed beside onnxruntime.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from stackserve.runtimes.base import ModelRefused
from stackserve.runtimes.model_file import inside

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

CHILDREN: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}  # fmt: skip
"""By message and field number: the messages on the way to TensorProto.external_data (onnx.proto)."""

KEY, VALUE = 1, 2
LOCATION = b"location"


class Malformed(Exception):
    """These bytes are no ONNX file."""


def external_files(path: Path) -> tuple[Path, ...]:
    """The files beside an ONNX file in which it keeps tensors. Raises ModelRefused where one is not a
    plain file of its folder, and where the file is not read as protobuf.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            # Most models have no such key at all, and a large one takes long to walk through.
            found = locations(data) if data.find(LOCATION) >= 0 else set()
    except (Malformed, ValueError) as error:  # mmap refuses an empty file
        raise ModelRefused(
            "invalid_model", f"{path.name} is no whole ONNX file ({error}); export it again"
        ) from error
    return tuple(_beside(path, location) for location in sorted(found))


def locations(data: mmap.mmap | bytes) -> set[bytes]:
    """Every location of an external tensor, in subgraphs, functions and sparse tensors too. However
    deep the messages lie in each other, this does not recurse. Raises Malformed.
    """
    found: set[bytes] = set()
    todo = [("Model", 0, len(data))]
    while todo:
        message, start, end = todo.pop()
        if message == "Entry":
            found |= _entry(data, start, end)
            continue
        children = CHILDREN[message]
        for number, first, last in _fields(data, start, end):
            if number in children:
                todo.append((children[number], first, last))
    return found


def _entry(data: mmap.mmap | bytes, start: int, end: int) -> set[bytes]:
    """The values of a key-value pair whose key is, also if repeated, `location`."""
    fields = [(number, data[first:last]) for number, first, last in _fields(data, start, end)]
    if (KEY, LOCATION) not in fields:
        return set()
    return {value for number, value in fields if number == VALUE}


def _fields(data: mmap.mmap | bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The number, begin and end of each field that holds bytes. Raises Malformed."""
    position = start
    while position < end:
        tag, position = _varint(data, position, end, most=5)
        kind, number = tag & 7, tag >> 3
        first = position
        if kind == BYTES:
            size, first = _varint(data, position, end, most=5)
            position = first + size
        elif kind == VARINT:
            _, position = _varint(data, position, end, most=10)
        elif kind in (FIXED32, FIXED64):
            position += 4 if kind == FIXED32 else 8
        else:
            raise Malformed(f"byte {position} begins a group")
        if position > end or not 0 < number < 1 << 29:
            raise Malformed(f"the field before byte {position} does not fit")
        if kind == BYTES:
            yield number, first, position


def _varint(data: mmap.mmap | bytes, position: int, end: int, most: int) -> tuple[int, int]:
    """A number and where it ends, in at most `most` bytes."""
    value = 0
    for shift in range(0, 7 * most, 7):
        if position >= end:
            raise Malformed("it is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise Malformed(f"the number before byte {position} is too long")


def _beside(path: Path, location: bytes) -> Path:
    name = location.decode("utf-8", "replace")
    if Path(name).name != name or "\\" in name or not name.isprintable():
        raise ModelRefused(
            "unsafe_external_data",
            f"{path.name} keeps a tensor in {name[:100]!r}, outside of its folder; export the model with "
            "its weights inside, or in a file beside it",
        )
    try:
        return inside(path.parent, name)
    except ModelRefused as error:
        code = "unsafe_external_data" if error.code == "file_outside" else error.code
        raise ModelRefused(
            code, f"{path.name} keeps a tensor elsewhere: {error.message}"
        ) from error
