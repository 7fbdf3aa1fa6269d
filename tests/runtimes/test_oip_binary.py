from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stackserve.runtimes.oip_request import Decoder
from tests.runtimes.oip_cases import (
    FLOWER,
    IRIS,
    PAIR,
    body,
    elements_in_binary,
    model,
    refused_bytes,
    tensor,
    with_binary,
)


def test_binary_data_is_read_in_the_order_of_the_json_between_inputs_in_json() -> None:
    metadata = model(("a", "FP32", (-1,)), ("b", "INT8", (-1,)), ("c", "INT16", (-1,)))
    text = body(
        tensor("c", [2], "INT16", parameters={"binary_data_size": 4}),
        tensor("b", [2], "INT8", [7, 8]),
        tensor("a", [1], "FP32", parameters={"binary_data_size": 4}),
    )
    parts = np.array([1, -2], "<i2").tobytes(), np.array([0.5], "<f4").tobytes()
    content, json_bytes = with_binary(text, *parts)
    inputs = Decoder(metadata).decode(content, json_bytes).inputs
    assert {name: array.tolist() for name, array in inputs.items()} == {
        "a": [0.5],
        "b": [7, 8],
        "c": [1, -2],
    }


@pytest.mark.parametrize("padding", range(8))
def test_binary_numbers_are_aligned_and_where_they_are_already_they_are_not_copied(
    padding: int,
) -> None:
    values = np.arange(4, dtype=np.float32)
    text = body(tensor("x", [1, 4], "FP32", parameters={"binary_data_size": 16})) + b" " * padding
    content, json_bytes = with_binary(text, values.tobytes())
    array = Decoder(IRIS).decode(content, json_bytes).inputs["x"]
    assert array.tolist() == [[0, 1, 2, 3]]
    assert array.flags.aligned
    whole = np.frombuffer(content, np.uint8)
    at = whole.ctypes.data + json_bytes
    assert np.shares_memory(array, whole) == (at % 4 == 0)


def test_strings_in_binary_are_any_bytes() -> None:
    values = [b"", b"\xff\0", b"x" * 300]
    data = elements_in_binary(values)
    text = body(tensor("x", [3], "BYTES", parameters={"binary_data_size": len(data)}))
    request = Decoder(model(("x", "BYTES", (-1,)))).decode(*with_binary(text, data))
    assert request.inputs["x"].tolist() == values


@pytest.mark.parametrize(
    "data",
    [
        elements_in_binary([b"one"]),
        elements_in_binary([b"one", b"two", b"three"]),
        elements_in_binary([b"one", b"two"]) + b"\0",
        elements_in_binary([b"one", b"two"])[:-1],
        b"\xff\xff\xff\xff" * 2,
        b"\0\0\0\0\0",
        b"",
    ],
    ids=["fewer", "more", "a byte too many", "a byte too few", "endless", "half a length", "none"],
)
def test_strings_in_binary_that_are_not_as_many_as_the_shape_says_are_refused(
    data: bytes,
) -> None:
    text = body(tensor("x", [2], "BYTES", parameters={"binary_data_size": len(data)}))
    content, json_bytes = with_binary(text, data)
    told = refused_bytes(model(("x", "BYTES", (-1,))), content, json_bytes)
    assert "that are not 2 BYTES elements" in told


def test_nan_and_the_infinities_come_in_binary() -> None:
    values = np.array([[np.nan, np.inf, -np.inf, -0.0]], np.float32)
    text = body(tensor("x", [1, 4], "FP32", parameters={"binary_data_size": 16}))
    content, json_bytes = with_binary(text, values.tobytes())
    assert Decoder(IRIS).decode(content, json_bytes).inputs["x"].tobytes() == values.tobytes()


def test_zero_rows_come_in_binary() -> None:
    text = body(tensor("x", [0, 4], "FP32", parameters={"binary_data_size": 0}))
    assert Decoder(IRIS).decode(text, len(text)).inputs["x"].shape == (0, 4)


def test_booleans_in_binary_are_zero_or_one() -> None:
    text = body(tensor("x", [3], "BOOL", parameters={"binary_data_size": 3}))
    metadata = model(("x", "BOOL", (-1,)))
    content, json_bytes = with_binary(text, b"\0\1\1")
    assert Decoder(metadata).decode(content, json_bytes).inputs["x"].tolist() == [False, True, True]
    assert "other than 0 and 1" in refused_bytes(metadata, text + b"\0\1\2", json_bytes)


@pytest.mark.parametrize(
    ("size", "sent", "told"),
    [
        (16, 15, "only 15 bytes are left"),
        (16, 17, "17 bytes after its JSON, but the inputs' binary_data_size sum up to 16"),
        (12, 12, "12 bytes, but its shape [1, 4] of FP32 takes 16"),
        (2**70, 16, "only 16 bytes are left"),
        (-1, 16, "binary_data_size -1"),
        ("16", 16, "binary_data_size '16'"),
        (16.0, 16, "binary_data_size 16.0"),
        (True, 16, "binary_data_size True"),
        (None, 16, "has no data"),
    ],
)
def test_a_wrong_binary_data_size_is_refused(size: Any, sent: int, told: str) -> None:
    text = body(tensor("x", [1, 4], "FP32", parameters={"binary_data_size": size}))
    assert told in refused_bytes(IRIS, text + b"\0" * sent, len(text))


def test_binary_data_needs_its_header() -> None:
    text = body(tensor("x", [1, 4], "FP32", parameters={"binary_data_size": 16}))
    assert "no header Inference-Header-Content-Length" in refused_bytes(IRIS, text)


def test_an_input_has_its_data_once() -> None:
    text = body({**FLOWER, "parameters": {"binary_data_size": 16}})
    assert "both `data` and binary_data_size" in refused_bytes(IRIS, text + b"\0" * 16, len(text))


def test_bytes_after_a_request_in_json_are_refused() -> None:
    text = body(FLOWER)
    assert Decoder(IRIS).decode(text, len(text)).rows == 1
    assert "4 bytes after its JSON" in refused_bytes(IRIS, text + b"\0" * 4, len(text))


@pytest.mark.parametrize("json_bytes", [-1, 10_000, 2**70])
def test_a_header_outside_of_the_body_is_refused(json_bytes: int) -> None:
    assert "Inference-Header-Content-Length is" in refused_bytes(IRIS, body(FLOWER), json_bytes)


# Values only


@pytest.mark.parametrize("rows", [0, 1, 8])
def test_a_body_of_values_only_is_the_one_input_and_its_answer_is_binary(rows: int) -> None:
    values = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
    request = Decoder(IRIS).decode(values.tobytes(), 0)
    np.testing.assert_array_equal(request.inputs["x"], values)
    assert all(output.binary for output in request.outputs)


def test_a_body_of_values_only_is_one_string() -> None:
    request = Decoder(model(("x", "BYTES", (-1, 1)))).decode(b"427", 0)
    assert request.inputs["x"].tolist() == [[b"427"]]


@pytest.mark.parametrize(
    ("metadata", "content", "told"),
    [
        (PAIR, b"\0" * 8, "needs a model of one input, and this one takes 'a', 'b'"),
        (model(("x", "FP16", (-1, -1))), b"\0" * 8, "more than one variable dimension"),
        (model(("x", "BYTES", (-1, 2))), b"427", "one element"),
        (IRIS, b"\0" * 15, "send a multiple of 16 bytes"),
        (model(("x", "FP32", (2,))), b"\0" * 4, "send 8 bytes"),
        (model(("x", "FP32", (-1, 0))), b"\0" * 4, "send 0 bytes"),
    ],
)
def test_a_body_of_values_only_whose_shape_is_not_known_is_refused(
    metadata: Any, content: bytes, told: str
) -> None:
    assert told in refused_bytes(metadata, content, 0)
