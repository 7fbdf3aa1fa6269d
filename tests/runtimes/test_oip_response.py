from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stackserve.runtimes.base import Metadata, Tensors
from stackserve.runtimes.oip_errors import LONGEST, BadRequest, ModelFault
from stackserve.runtimes.oip_response import encode
from tests.runtimes.oip_cases import FLOWER, IRIS, answered, decode, model, tensor

GIVEN: Tensors = {
    "label": np.array([2], np.int64),
    "scores": np.array([[0.25, 0.5, 0.25]], np.float32),
}


def bytes_output(values: list[Any], *, binary: bool = False) -> tuple[Any, bytes, int | None]:
    metadata = model(("x", "FP32", (-1,)), outputs=[("y", "BYTES", (-1,))])
    request = decode(
        metadata, tensor("x", [0], "FP32", []), parameters={"binary_data_output": binary}
    )
    given = np.empty(len(values), np.object_)
    given[:] = values
    return answered(request, {"y": given}, metadata)


def single_output(datatype: str, given: object, shape: tuple[int, ...] = (-1,)) -> Any:
    metadata = model(("x", "FP32", (-1,)), outputs=[("y", datatype, shape)], batches=True)
    request = decode(metadata, tensor("x", [2], "FP32", [1, 2]))
    return encode("m", "1", request, {"y": given}, metadata)  # type: ignore[dict-item]


def test_an_answer_names_the_model_and_echoes_the_id() -> None:
    told, rest, json_bytes = answered(decode(IRIS, FLOWER, id='a"\n'), GIVEN, IRIS)
    assert told == {
        "model_name": "m",
        "model_version": "3",
        "id": 'a"\n',
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [1], "data": [2]},
            {"name": "scores", "datatype": "FP32", "shape": [1, 3], "data": [0.25, 0.5, 0.25]},
        ],
    }
    assert (rest, json_bytes) == (b"", None)


def test_an_answer_to_a_request_without_an_id_has_none() -> None:
    assert "id" not in answered(decode(IRIS, FLOWER), GIVEN, IRIS)[0]


def test_outputs_come_in_the_order_and_the_way_in_which_they_were_asked_for() -> None:
    outputs = [{"name": "scores", "parameters": {"binary_data": True}}, {"name": "label"}]
    told, rest, json_bytes = answered(decode(IRIS, FLOWER, outputs=outputs), GIVEN, IRIS)
    scores, label = told["outputs"]
    assert scores["parameters"] == {"binary_data_size": 12}
    assert "data" not in scores
    assert label["data"] == [2]
    assert rest == GIVEN["scores"].tobytes()
    assert json_bytes is not None


def test_a_binary_output_of_no_rows_still_has_the_header() -> None:
    request = decode(IRIS, tensor("x", [0, 4], "FP32", []), parameters={"binary_data_output": True})
    none: Tensors = {"label": np.empty(0, np.int64), "scores": np.empty((0, 3), np.float32)}
    told, rest, json_bytes = answered(request, none, IRIS)
    assert [output["parameters"]["binary_data_size"] for output in told["outputs"]] == [0, 0]
    assert rest == b""
    assert json_bytes is not None


def test_what_the_model_gives_beyond_what_was_asked_for_is_left_out() -> None:
    request = decode(IRIS, FLOWER, outputs=[{"name": "label"}])
    told, _, _ = answered(request, {**GIVEN, "debug": np.zeros(9)}, IRIS)
    assert [output["name"] for output in told["outputs"]] == ["label"]


def test_outputs_that_are_not_in_row_major_order_are_written_in_it() -> None:
    request = decode(IRIS, tensor("x", [2, 4], "FP32", [0] * 8), outputs=[{"name": "scores"}])
    columns = np.arange(6, dtype=np.float32).reshape(3, 2).T
    told, _, _ = answered(request, {"scores": columns}, IRIS)
    assert told["outputs"][0]["data"] == [0, 2, 4, 1, 3, 5]


def test_strings_are_written_as_they_are_and_in_binary_with_their_length() -> None:
    told, _, _ = bytes_output(["é".encode(), b""])
    assert told["outputs"][0]["data"] == ["é", ""]
    _, rest, _ = bytes_output([b"\xff", b""], binary=True)
    assert rest == b"\1\0\0\0\xff\0\0\0\0"


def test_strings_that_are_not_utf_8_must_be_asked_for_in_binary() -> None:
    with pytest.raises(BadRequest, match=r"'y' has bytes that are not UTF-8.* with binary_data"):
        bytes_output([b"\xff"])


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_the_infinities_must_be_asked_for_in_binary(datatype: str, value: float) -> None:
    dtype = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}[datatype]
    with pytest.raises(BadRequest, match=r"'y' has NaN or infinite values.* with binary_data"):
        single_output(datatype, np.array([1, value], dtype))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "gave no output 'y'"),
        ([1.0, 2.0], "gave no output 'y'"),
        (np.zeros(2, np.float64), "of FP64; its metadata says FP32"),
        (np.zeros(2, ">f4"), "of >f4; its metadata says FP32"),
        (np.zeros((2, 1), np.float32), "shape [2, 1]; its metadata says [-1]"),
        (np.zeros(3, np.float32), "3 rows for 2 of the input"),
    ],
)
def test_outputs_that_are_not_as_the_metadata_says_are_the_model_s_fault(
    given: object, told: str
) -> None:
    with pytest.raises(ModelFault) as error:
        single_output("FP32", given)
    assert told in str(error.value)


def test_an_output_with_another_fixed_dimension_is_the_model_s_fault() -> None:
    with pytest.raises(ModelFault, match="its metadata"):
        single_output("FP32", np.zeros((2, 3), np.float32), shape=(-1, 2))


@pytest.mark.parametrize("binary", [False, True])
def test_strings_that_are_no_bytes_are_the_model_s_fault(binary: bool) -> None:
    with pytest.raises(ModelFault, match="not bytes"):
        bytes_output([b"one", "two"], binary=binary)


def test_rows_do_not_matter_for_a_model_that_does_not_batch() -> None:
    metadata = Metadata("test", IRIS.inputs, IRIS.outputs, batches=False)
    request = decode(metadata, FLOWER, outputs=[{"name": "label"}])
    told, _, _ = answered(request, {"label": np.zeros(5, np.int64)}, metadata)
    assert told["outputs"][0]["shape"] == [5]


def test_no_message_grows_with_the_names_of_a_model() -> None:
    long = "y" * 10_000
    metadata = model(("x", "FP32", (-1,)), outputs=[(long, "FP32", (-1,))])
    request = decode(metadata, tensor("x", [1], "FP32", [1]))
    with pytest.raises(ModelFault) as error:
        encode("m", "1", request, {}, metadata)
    assert len(str(error.value)) <= LONGEST
