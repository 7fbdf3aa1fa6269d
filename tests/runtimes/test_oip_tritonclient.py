"""NVIDIA's client as an independent judge: its requests are read, and it reads the answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st

from stackserve.runtimes.base import Metadata
from stackserve.runtimes.compression import deflate
from stackserve.runtimes.datatypes import DATATYPES
from stackserve.runtimes.oip_errors import BadRequest
from stackserve.runtimes.oip_request import Decoder
from stackserve.runtimes.oip_response import encode
from tests.runtimes.oip_cases import IRIS, arrays, model

Array = np.ndarray[Any, Any]
EVERY = pytest.mark.parametrize("datatype", DATATYPES)
generate = triton.InferenceServerClient.generate_request_body


def asked(array: Array, datatype: str, *, binary: bool) -> Any:
    given = triton.InferInput("x", list(array.shape), datatype)
    given.set_data_from_numpy(array, binary_data=binary)
    return given


def identity(datatype: str, array: Array) -> Metadata:
    shape = (-1,) * array.ndim
    return model(("x", datatype, shape), outputs=[("y", datatype, shape)], batches=True)


def there_and_back(
    datatype: str, array: Array, *, binary: bool, outputs: Any, packing: str | None = None
) -> Array:
    """Ask an identity as the client does, and read its answer as the client does."""
    metadata = identity(datatype, array)
    content, json_bytes = generate([asked(array, datatype, binary=binary)], outputs=outputs)
    request = Decoder(metadata).decode(content, json_bytes)
    np.testing.assert_array_equal(request.inputs["x"], array)
    assert request.inputs["x"].shape == array.shape
    parts, answer_json = encode("m", "1", request, {"y": request.inputs["x"]}, metadata)
    whole = deflate(parts, packing) if packing else b"".join(parts)
    result = triton.InferenceServerClient.parse_response_body(
        whole, header_length=answer_json, content_encoding=packing
    )
    answer: Array = result.as_numpy("y")
    return answer


@EVERY
@given(st.data())
def test_the_client_s_defaults_are_understood_both_ways(datatype: str, data: st.DataObject) -> None:
    array = data.draw(arrays(datatype, finite=False))
    packing = data.draw(st.sampled_from([None, "gzip", "deflate"]))
    answer = there_and_back(datatype, array, binary=True, outputs=None, packing=packing)
    np.testing.assert_array_equal(answer, array)
    assert answer.shape == array.shape


@EVERY
@given(st.data())
def test_the_client_s_json_is_understood_both_ways(datatype: str, data: st.DataObject) -> None:
    array = data.draw(arrays(datatype, finite=True))
    outputs = [triton.InferRequestedOutput("y", binary_data=False)]
    answer = there_and_back(datatype, array, binary=False, outputs=outputs)
    if datatype == "BYTES":  # in JSON it leaves strings as they are
        answer = np.asarray(np.frompyfunc(str.encode, 1, 1)(answer), np.object_)
    np.testing.assert_array_equal(answer, array)
    assert answer.shape == array.shape


def test_the_client_s_nan_in_json_is_refused_with_the_remedy() -> None:
    given = asked(np.array([[1, 2, np.nan, 4]], np.float32), "FP32", binary=False)
    content, json_bytes = generate([given])
    with pytest.raises(BadRequest, match="NaN and Infinity are not JSON, and need binary data"):
        Decoder(IRIS).decode(content, json_bytes)


def test_all_that_the_client_can_say_of_a_request_is_read() -> None:
    given = asked(np.zeros((2, 4), np.float32), "FP32", binary=True)
    content, json_bytes = generate(
        [given],
        outputs=[
            triton.InferRequestedOutput("scores"),
            triton.InferRequestedOutput("label", False),
        ],
        request_id="é 42",
        sequence_id=7,
        sequence_start=True,
        priority=3,
        timeout=1000,
        parameters={"top": 5},
    )
    request = Decoder(IRIS).decode(content, json_bytes)
    assert request.id == "é 42"
    assert request.parameters["top"] == 5
    assert [(output.spec.name, output.binary) for output in request.outputs] == [
        ("scores", True),
        ("label", False),
    ]


def test_shared_memory_and_classification_as_the_client_asks_for_them_are_refused() -> None:
    shared = triton.InferInput("x", [1, 4], "FP32")
    shared.set_shared_memory("region", 16)
    plain = asked(np.zeros((1, 4), np.float32), "FP32", binary=True)
    output = triton.InferRequestedOutput("scores")
    output.set_shared_memory("region", 12)
    classes = triton.InferRequestedOutput("scores", class_count=2)
    for inputs, outputs, told in (
        ([shared], None, "Input 'x' is in shared memory"),
        ([plain], [output], "Output 'scores' is in shared memory"),
        ([plain], [classes], "classification"),
    ):
        with pytest.raises(BadRequest, match=told):
            Decoder(IRIS).decode(*generate(inputs, outputs=outputs))


def test_the_client_reads_a_mixed_answer_in_its_own_order() -> None:
    given = asked(np.zeros((2, 4), np.float32), "FP32", binary=False)
    outputs = [triton.InferRequestedOutput("scores"), triton.InferRequestedOutput("label", False)]
    request = Decoder(IRIS).decode(*generate([given], outputs=outputs, request_id="9"))
    scores = np.arange(6, dtype=np.float32).reshape(2, 3)
    parts, json_bytes = encode(
        "iris", "2", request, {"label": np.array([1, 2]), "scores": scores}, IRIS
    )
    result = triton.InferenceServerClient.parse_response_body(
        b"".join(parts), header_length=json_bytes
    )
    assert result.get_response()["id"] == "9"
    assert result.get_response()["model_version"] == "2"
    np.testing.assert_array_equal(result.as_numpy("scores"), scores)
    assert result.as_numpy("label").tolist() == [1, 2]
