"""Whatever arrives is read or refused with a short sentence, and takes no memory that it only announces."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackserve.runtimes.oip_errors import LONGEST, BadRequest
from stackserve.runtimes.oip_request import Decoder
from tests.runtimes.oip_cases import body, elements_in_binary, model, tensor, with_binary

MIXED = model(
    ("a", "FP32", (-1, 2)),
    ("b", "BYTES", (-1,)),
    ("c", "BOOL", (-1,)),
    ("d", "UINT64", ()),
    outputs=[("y", "FP16", (-1,))],
    batches=False,
)
DECODER = Decoder(MIXED)
STRINGS = elements_in_binary([b"one", b"\xff"])
VALID = [
    (
        body(
            tensor("a", [1, 2], "FP32", [[0.5, 1e3]]),
            tensor("b", [1], "BYTES", ["text"]),
            tensor("c", [2], "BOOL", [True, False], parameters={"n": 1}),
            tensor("d", [], "UINT64", 7),
            outputs=[{"name": "y", "parameters": {"binary_data": True}}],
            id="1",
        ),
        None,
    ),
    with_binary(
        body(
            tensor("a", [1, 2], "FP32", parameters={"binary_data_size": 8}),
            tensor("b", [2], "BYTES", parameters={"binary_data_size": len(STRINGS)}),
            tensor("c", [2], "BOOL", parameters={"binary_data_size": 2}),
            tensor("d", [], "UINT64", parameters={"binary_data_size": 8}),
        ),
        np.ones(2, np.float32).tobytes(),
        STRINGS,
        b"\0\1",
        struct.pack("<Q", 7),
    ),
]
PIECES = [
    b"null", b"[", b"]", b"{", b"}", b",", b"-1", b"1e999", b"NaN", b'""', b'"', b"\\ud800", b"\xff",
    b"9" * 30, b"9" * 5000, b"[" * 70, b"[" * 3000, b"true", b"0.5", b":", b" " * 5000, b"\0",
]  # fmt: skip


def read_or_refused(decoder: Decoder, content: bytes, json_bytes: int | None) -> Any:
    try:
        request = decoder.decode(content, json_bytes)
    except BadRequest as error:
        told = str(error)
    else:
        hash(request.signature)
        assert request.rows >= 0
        return request
    assert 0 < len(told) <= LONGEST
    assert told.isprintable()
    return None


@pytest.mark.parametrize(("content", "json_bytes"), VALID)
def test_the_requests_that_are_mutated_here_are_valid(content: bytes, json_bytes: int) -> None:
    assert read_or_refused(DECODER, content, json_bytes) is not None


@given(st.binary(), st.none() | st.integers(-1, 40))
def test_any_bytes_are_read_or_refused(content: bytes, json_bytes: int | None) -> None:
    read_or_refused(DECODER, content, json_bytes)


@pytest.mark.parametrize("datatype", ["FP32", "BOOL", "BYTES", "INT64"])
@given(st.binary(max_size=64))
def test_any_bytes_are_values_or_refused(datatype: str, content: bytes) -> None:
    read_or_refused(Decoder(model(("x", datatype, (-1, 2)))), content, 0)
    read_or_refused(Decoder(model(("x", datatype, (-1,)))), content, 0)


@settings(max_examples=1000, deadline=None)
@given(st.sampled_from(VALID), st.data())
def test_mutated_requests_are_read_or_refused(
    valid: tuple[bytes, int | None], data: st.DataObject
) -> None:
    content, json_bytes = valid
    for _ in range(data.draw(st.integers(1, 3), "changes")):
        start = data.draw(st.integers(0, len(content)), "start")
        end = data.draw(st.integers(start, min(len(content), start + 12)), "end")
        piece = data.draw(st.sampled_from(PIECES) | st.binary(max_size=4), "piece")
        content = content[:start] + piece + content[end:]
        if json_bytes is not None and end <= json_bytes and data.draw(st.booleans(), "told"):
            json_bytes += len(piece) - (end - start)
    read_or_refused(DECODER, content, json_bytes)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5) | st.integers(-(2**70), 2**70),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)  # fmt: skip


@given(
    st.sampled_from(["name", "shape", "datatype", "parameters", "data"]),
    st.sampled_from(["a", "b", "c", "d"]),
    json_values,
)
def test_any_value_of_any_field_is_read_or_refused(field: str, name: str, value: Any) -> None:
    spec = next(spec for spec in MIXED.inputs if spec.name == name)
    shape = [1 if size == -1 else size for size in spec.shape]
    read_or_refused(DECODER, body({**tensor(name, shape, spec.datatype, []), field: value}), None)


@given(json_values, json_values)
def test_any_parameters_are_read_or_refused(value: Any, other: Any) -> None:
    read_or_refused(DECODER, body(parameters={"binary_data_output": value}, id=other), None)
    outputs = [{"name": "y", "parameters": {"binary_data": value, "classification": other}}]
    read_or_refused(DECODER, body(outputs=outputs), None)


@pytest.mark.parametrize(
    ("datatype", "shape", "given"),
    [
        ("FP32", [2**30], {"data": [1.0]}),
        ("FP32", [2**30], {"parameters": {"binary_data_size": 2**32}}),
        ("FP32", [2**30], {"parameters": {"binary_data_size": 4}}),
        ("BYTES", [2**30], {"parameters": {"binary_data_size": 4}}),
        ("BYTES", [2**30], {"data": ["x"]}),
        ("BOOL", [2**31], {"parameters": {"binary_data_size": 4}}),
    ],
)
def test_what_is_announced_takes_no_memory(datatype: str, shape: Any, given: Any) -> None:
    decoder = Decoder(model(("x", datatype, (-1,))))
    content, json_bytes = with_binary(
        body(tensor("x", shape, datatype, **given)), b"\xff\xff\xff\xff"
    )
    tracemalloc.start()
    try:
        assert read_or_refused(decoder, content, json_bytes) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
