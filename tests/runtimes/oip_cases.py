"""Models and requests for the tests of the codec."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stackserve.runtimes.base import Metadata, Tensors, TensorSpec
from stackserve.runtimes.datatypes import DATATYPES
from stackserve.runtimes.oip_errors import BadRequest
from stackserve.runtimes.oip_request import Decoder, InferenceRequest
from stackserve.runtimes.oip_response import encode

Spec = tuple[str, str, tuple[int, ...]]

IRIS = Metadata(
    "onnx",
    (TensorSpec("x", "FP32", (-1, 4)),),
    (TensorSpec("label", "INT64", (-1,)), TensorSpec("scores", "FP32", (-1, 3))),
)


def model(*inputs: Spec, outputs: Sequence[Spec] = (), batches: bool = False) -> Metadata:
    return Metadata(
        "test",
        tuple(TensorSpec(*spec) for spec in inputs),
        tuple(TensorSpec(*spec) for spec in outputs),
        batches,
    )


def tensor(name: str, shape: Sequence[int], datatype: str, data: Any = None, **more: Any) -> Any:
    """An input in JSON. Without `data` there is none."""
    written = {"name": name, "shape": list(shape), "datatype": datatype, **more}
    return written if data is None else {**written, "data": data}


FLOWER = tensor("x", [1, 4], "FP32", [5.1, 3.5, 1.4, 0.2])
PAIR = model(("a", "FP32", (-1,)), ("b", "INT8", (-1, 2)), outputs=[("y", "FP32", (-1,))])


def body(*inputs: Any, **fields: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **fields}).encode()


def with_binary(text: bytes, *parts: bytes) -> tuple[bytes, int]:
    return b"".join((text, *parts)), len(text)


def decode(metadata: Metadata, *inputs: Any, **fields: Any) -> InferenceRequest:
    return Decoder(metadata).decode(body(*inputs, **fields))


def refused(metadata: Any, *inputs: Any, **fields: Any) -> str:
    with pytest.raises(BadRequest) as error:
        decode(metadata, *inputs, **fields)
    return str(error.value)


def refused_bytes(metadata: Any, content: bytes, json_bytes: int | None = None) -> str:
    with pytest.raises(BadRequest) as error:
        Decoder(metadata).decode(content, json_bytes)
    return str(error.value)


def one(datatype: str, shape: Sequence[int], data: Any) -> np.ndarray[Any, Any]:
    """How JSON data of an input of any size in all dimensions is read."""
    metadata = model(("x", datatype, (-1,) * len(shape)))
    return decode(metadata, tensor("x", shape, datatype, data)).inputs["x"]


def elements_in_binary(values: Sequence[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def answered(
    request: InferenceRequest, outputs: Tensors, metadata: Metadata
) -> tuple[Any, bytes, int | None]:
    """The JSON, the bytes after it, and the header."""
    parts, json_bytes = encode("m", "3", request, outputs, metadata)
    whole = b"".join(parts)
    end = len(whole) if json_bytes is None else json_bytes
    return json.loads(whole[:end]), whole[end:], json_bytes


def strings(texts: st.SearchStrategy[bytes]) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    return hnp.arrays(
        np.object_, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0), elements=texts
    )


def arrays(datatype: str, *, finite: bool) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    """Tensors of a datatype, of up to four dimensions, some of them zero."""
    if datatype == "BYTES":
        utf8 = st.text(st.characters(exclude_categories=["Cs"])).map(str.encode)
        return strings(utf8 if finite else st.binary())
    dtype = DATATYPES[datatype]
    elements = None
    if dtype.kind == "f" and finite:
        elements = st.floats(width=dtype.itemsize * 8, allow_nan=False, allow_infinity=False)
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    return hnp.arrays(dtype, shapes, elements=elements)
