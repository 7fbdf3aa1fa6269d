"""A tensor's values as the Open Inference Protocol writes them: in JSON, and in binary.

Binary values are those of this machine, which is taken to be little-endian as the protocol is.
`count` is always the number of elements of `shape`.
"""

from __future__ import annotations

import struct
from functools import cache
from types import GenericAlias
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from stackserve.runtimes.datatypes import DATATYPES, objects
from stackserve.runtimes.oip_errors import BadRequest, ModelFault, shown, shown_shape

Array = npt.NDArray[Any]
Buffer = bytes | memoryview
Shape = tuple[int, ...]

MOST_NESTED = 64
"""Lists in lists of `data`: as many dimensions as numpy has."""
LONGEST_PREFIX = 4096
"""Bytes up to the first value of `data`."""

FP16_END = 65520.0
FP32_END = (2 - 2.0**-24) * 2.0**127
"""From here on a number rounds to infinity. The largest FP32 is often written as 3.4028235e38, which
is more than it is.
"""


def _integers(bits: int) -> Any:
    return Annotated[int, Meta(ge=-(2 ** (bits - 1)), le=2 ** (bits - 1) - 1)]


ELEMENTS: dict[str, Any] = {
    "BOOL": bool,
    "UINT8": Annotated[int, Meta(ge=0, le=2**8 - 1)],
    "UINT16": Annotated[int, Meta(ge=0, le=2**16 - 1)],
    "UINT32": Annotated[int, Meta(ge=0, le=2**32 - 1)],
    "UINT64": Annotated[int, Meta(ge=0)],  # msgspec takes no larger bound; numpy checks it
    "INT8": _integers(8), "INT16": _integers(16), "INT32": _integers(32), "INT64": _integers(64),
    "FP16": Annotated[float, Meta(gt=-FP16_END, lt=FP16_END)],
    "FP32": Annotated[float, Meta(gt=-FP32_END, lt=FP32_END)],
    "FP64": float,
    "BYTES": str,
}  # fmt: skip
"""What an element is in JSON. As Triton has it: BOOL is true or false, never 0 or 1; integers are
written without a point; floats may be."""

_encode = msgspec.json.Encoder().encode


@cache
def _decoder(datatype: str, depth: int) -> msgspec.json.Decoder[Any]:
    kind = ELEMENTS[datatype]
    for _ in range(depth):
        kind = GenericAlias(list, (kind,))
    return msgspec.json.Decoder(kind)


def from_json(name: str, datatype: str, data: msgspec.Raw, shape: Shape, count: int) -> Array:
    """An input's `data`, flat in row-major order or nested as its shape is; dimensions of one may be
    left out of the nesting, or added to it. Raises BadRequest.
    """
    depth = _depth(data)
    if depth > MOST_NESTED:
        raise BadRequest(
            f"Input {shown(name)} nests its data deeper than {MOST_NESTED} lists; send it flat."
        )
    try:
        values = _decoder(datatype, depth).decode(data)
        array = np.array(values, DATATYPES[datatype])
    except msgspec.DecodeError as error:
        raise BadRequest(
            f"Input {shown(name)} has data that is not {datatype}: {error}; {_remedy(datatype)}."
        ) from error
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"Input {shown(name)} has strings that are not UTF-8; send it in binary."
        ) from error
    except OverflowError as error:
        raise BadRequest(
            f"Input {shown(name)} has data that is not {datatype}: an integer is too large for it; "
            f"{_remedy(datatype)}."
        ) from error
    except ValueError as error:  # numpy's, of numbers; strings it takes, with fewer dimensions
        raise _ragged(name) from error
    if array.ndim != depth:
        raise _ragged(name)
    if datatype == "BYTES":
        array = objects([text.encode() for text in array.ravel().tolist()]).reshape(array.shape)
    return array if array.shape == shape else _reshaped(name, array, shape, count)


def _depth(data: msgspec.Raw) -> int:
    """In how many lists the first value is."""
    prefix = bytes(memoryview(data)[:LONGEST_PREFIX])
    before = len(prefix) - len(prefix.lstrip(b"[ \t\r\n"))
    if before == LONGEST_PREFIX:
        return MOST_NESTED + 1
    return prefix.count(b"[", 0, before)


def _remedy(datatype: str) -> str:
    if datatype == "BOOL":
        return "write true or false"
    if datatype == "BYTES":
        return "write strings, or send it in binary"
    if datatype.startswith("FP"):
        return "write finite numbers within its range"
    return "write integers within its range, without a point"


def _ragged(name: str) -> BadRequest:
    return BadRequest(
        f"Input {shown(name)} has nested data whose lists differ in length; nest it as its shape says, "
        "or send it flat."
    )


def _reshaped(name: str, array: Array, shape: Shape, count: int) -> Array:
    if array.size != count:
        raise BadRequest(
            f"Input {shown(name)} has {array.size} values, but its shape {shown_shape(shape)} takes "
            f"{count}; make them agree."
        )
    if count and array.ndim > 1 and _larger(array.shape) != _larger(shape):
        raise BadRequest(
            f"Input {shown(name)} has data nested as {shown_shape(array.shape)}, but its shape is "
            f"{shown_shape(shape)}; make them agree, or send the data flat."
        )
    return array.reshape(shape)


def _larger(shape: Shape) -> list[int]:
    return [size for size in shape if size != 1]


def from_binary(name: str, datatype: str, data: memoryview, shape: Shape, count: int) -> Array:
    """An input's bytes: a view of them where that is possible, so they must not change while it is
    used. Raises BadRequest.
    """
    if datatype == "BYTES":
        return objects(_strings(name, data, count)).reshape(shape)
    dtype = DATATYPES[datatype]
    if len(data) != count * dtype.itemsize:
        raise BadRequest(
            f"Input {shown(name)} has {len(data)} bytes, but its shape {shown_shape(shape)} of "
            f"{datatype} takes {count * dtype.itemsize}; make them agree."
        )
    if datatype == "BOOL" and count and np.frombuffer(data, np.uint8).max() > 1:
        raise BadRequest(
            f"Input {shown(name)} is BOOL and has bytes other than 0 and 1; send one of them for each "
            "element."
        )
    array = np.frombuffer(data, dtype).reshape(shape)
    # Frameworks read numbers where they stand, and some need them aligned.
    return array if array.flags.aligned else array.copy()


def single(data: memoryview, shape: Shape) -> Array:
    """A BYTES tensor of one element."""
    return objects([data.tobytes()]).reshape(shape)


def _strings(name: str, data: memoryview, count: int) -> list[bytes]:
    """BYTES elements, each after its length; it is known before that there is room for `count`."""
    size, place = len(data), 0
    whole = data.tobytes()
    strings = []
    if size >= 4 * count:
        for _ in range(count):
            if place + 4 > size:
                break
            (length,) = struct.unpack_from("<I", whole, place)
            place += 4 + length
            strings.append(whole[place - length : place])
    if len(strings) != count or place != size:
        raise BadRequest(
            f"Input {shown(name)} has {size} bytes that are not {count} BYTES elements; write each as its "
            "length in 4 bytes, little-endian, and then itself."
        )
    return strings


def to_json(name: str, datatype: str, array: Array) -> bytes:
    """An output's values as a flat JSON list. Raises BadRequest where only binary can hold them."""
    values = array.ravel().tolist()
    if datatype == "BYTES":
        try:
            return _encode([value.decode() for value in _only_bytes(name, values)])
        except UnicodeDecodeError as error:
            raise BadRequest(
                f"Output {shown(name)} has bytes that are not UTF-8, and JSON cannot hold them; ask for it "
                "with binary_data."
            ) from error
    data = _encode(values)
    if b"null" in data:  # that is how msgspec writes NaN and the infinities
        raise BadRequest(
            f"Output {shown(name)} has NaN or infinite values, and JSON cannot hold them; ask for it with "
            "binary_data."
        )
    return data


def to_binary(name: str, datatype: str, array: Array) -> Buffer:
    """An output's values as bytes: a view of them where that is possible."""
    if datatype == "BYTES":
        values = _only_bytes(name, array.ravel().tolist())
        return b"".join([part for each in values for part in (struct.pack("<I", len(each)), each)])
    return np.ascontiguousarray(array).data.cast("B") if array.size else b""


def _only_bytes(name: str, values: list[Any]) -> list[bytes]:
    if not all(type(value) is bytes for value in values):
        raise ModelFault(f"The model gave an output {shown(name)} whose elements are not bytes.")
    return values
