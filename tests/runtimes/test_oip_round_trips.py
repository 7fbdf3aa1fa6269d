"""What is sent is what is read, and what is given is what is answered; for any tensor there is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackserve.runtimes.base import Metadata
from stackserve.runtimes.datatypes import DATATYPES
from stackserve.runtimes.oip_request import Decoder
from tests.runtimes.oip_cases import (
    answered,
    arrays,
    body,
    elements_in_binary,
    model,
    tensor,
    with_binary,
)

Array = np.ndarray[Any, Any]
EVERY = pytest.mark.parametrize("datatype", DATATYPES)


def identity(datatype: str, array: Array) -> Metadata:
    shape = (-1,) * array.ndim
    return model(("x", datatype, shape), outputs=[("y", datatype, shape)], batches=True)


def in_json(datatype: str, array: Array) -> list[Any]:
    values = array.ravel().tolist()
    return [value.decode() for value in values] if datatype == "BYTES" else values


def in_binary(datatype: str, array: Array) -> bytes:
    return elements_in_binary(array.ravel().tolist()) if datatype == "BYTES" else array.tobytes()


def nested(datatype: str, array: Array) -> Any:
    texts = np.array(in_json(datatype, array), np.object_).reshape(array.shape)
    return texts.tolist() if datatype == "BYTES" else array.tolist()


def assert_same(one: Array, other: Array) -> None:
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    np.testing.assert_array_equal(one, other)


@EVERY
@given(st.data())
def test_json_is_read_flat_and_nested(datatype: str, data: st.DataObject) -> None:
    array = data.draw(arrays(datatype, finite=True))
    decoder = Decoder(identity(datatype, array))
    for values in (in_json(datatype, array), nested(datatype, array)):
        text = body(tensor("x", array.shape, datatype, values))
        assert_same(decoder.decode(text).inputs["x"], array)


@EVERY
@given(st.data())
def test_binary_is_read(datatype: str, data: st.DataObject) -> None:
    array = data.draw(arrays(datatype, finite=False))
    values = in_binary(datatype, array)
    size = {"binary_data_size": len(values)}
    content, json_bytes = with_binary(
        body(tensor("x", array.shape, datatype, parameters=size)), values
    )
    request = Decoder(identity(datatype, array)).decode(content, json_bytes)
    assert_same(request.inputs["x"], array)


@EVERY
@given(st.data())
def test_an_answer_in_json_can_be_sent_as_a_request(datatype: str, data: st.DataObject) -> None:
    array = data.draw(arrays(datatype, finite=True))
    metadata = identity(datatype, array)
    decoder = Decoder(metadata)
    request = decoder.decode(body(tensor("x", array.shape, datatype, in_json(datatype, array))))
    told, _, _ = answered(request, {"y": array}, metadata)
    again = decoder.decode(body({**told["outputs"][0], "name": "x"}))
    assert_same(again.inputs["x"], array)


@EVERY
@given(st.data())
def test_an_answer_in_binary_can_be_sent_as_a_request(datatype: str, data: st.DataObject) -> None:
    array = data.draw(arrays(datatype, finite=False))
    metadata = identity(datatype, array)
    decoder = Decoder(metadata)
    values = in_binary(datatype, array)
    sent = tensor("x", array.shape, datatype, parameters={"binary_data_size": len(values)})
    asked = body(sent, parameters={"binary_data_output": True})
    request = decoder.decode(*with_binary(asked, values))
    told, rest, _ = answered(request, {"y": array}, metadata)
    again = decoder.decode(*with_binary(body({**told["outputs"][0], "name": "x"}), rest))
    assert_same(again.inputs["x"], array)
