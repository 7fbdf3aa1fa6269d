from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from stackserve.runtimes.base import ModelRefused
from stackserve.runtimes.oip_errors import LONGEST
from stackserve.runtimes.oip_request import Decoder
from tests.runtimes.oip_cases import (
    FLOWER,
    IRIS,
    PAIR,
    decode,
    model,
    one,
    refused,
    refused_bytes,
    tensor,
)

# What is read


def test_a_json_request_is_read_with_everything_in_it() -> None:
    request = decode(IRIS, FLOWER, id="42", parameters={"threshold": 0.5})
    assert request.id == "42"
    assert request.parameters == {"threshold": 0.5}
    assert request.inputs["x"].dtype == np.float32
    np.testing.assert_array_equal(request.inputs["x"], np.array([[5.1, 3.5, 1.4, 0.2]], np.float32))


@pytest.mark.parametrize(
    "data",
    [[1, 2, 3, 4], [[1, 2], [3, 4]], [[[1, 2], [3, 4]]], [[[1], [2]], [[3], [4]]]],
    ids=["flat", "nested", "with a dimension of one in front", "with one behind"],
)
def test_data_is_flat_or_nested_and_dimensions_of_one_do_not_matter(data: Any) -> None:
    np.testing.assert_array_equal(one("INT32", (2, 2), data), [[1, 2], [3, 4]])


def test_a_scalar_is_a_value_or_a_list_of_it() -> None:
    assert one("FP64", (), 2.5).shape == ()
    assert one("FP64", (), [2.5]) == 2.5


def test_data_may_stand_behind_much_white_space() -> None:
    text = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data": [\n\t [1, 2,\r\n 3, 4] ] } ]}'
    assert Decoder(IRIS).decode(text).inputs["x"].tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_rows_are_the_first_dimension_of_the_first_input(rows: int) -> None:
    assert decode(IRIS, tensor("x", [rows, 4], "FP32", [0] * rows * 4)).rows == rows


def test_a_scalar_is_one_row() -> None:
    assert decode(model(("x", "FP32", ())), tensor("x", [], "FP32", [1])).rows == 1


def test_inputs_come_in_the_order_of_the_metadata() -> None:
    request = decode(PAIR, tensor("b", [1, 2], "INT8", [1, 2]), tensor("a", [1], "FP32", [3]))
    assert list(request.inputs) == ["a", "b"]


def test_unknown_fields_and_nulls_are_passed_over() -> None:
    request = decode(
        IRIS, {**FLOWER, "colour": [1]}, id=None, parameters=None, outputs=None, more={}
    )
    assert request.id is None
    assert request.parameters == {}


# Which outputs


def test_without_outputs_all_are_wanted_in_json() -> None:
    request = decode(IRIS, FLOWER)
    assert request.wanted == ("label", "scores")
    assert [output.binary for output in request.outputs] == [False, False]


def test_an_empty_list_of_outputs_means_all() -> None:
    assert decode(IRIS, FLOWER, outputs=[]).wanted == ("label", "scores")


def test_an_output_overrides_the_default_of_the_request() -> None:
    request = decode(
        IRIS,
        FLOWER,
        parameters={"binary_data_output": True},
        outputs=[{"name": "scores", "parameters": {"binary_data": False}}, {"name": "label"}],
    )
    assert [(output.spec.name, output.binary) for output in request.outputs] == [
        ("scores", False),
        ("label", True),
    ]


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        ([{"name": "nope"}], "no output 'nope'; it gives 'label', 'scores'"),
        ([{"name": "label"}, {"name": "label"}], "'label' is asked for twice"),
        ([{"name": "label", "parameters": {"binary_data": "yes"}}], "binary_data 'yes'"),
        ([{"name": "label", "parameters": {"classification": 3}}], "classification"),
        ([{"name": "label", "parameters": {"shared_memory_region": "r"}}], "shared memory"),
    ],
)
def test_wrong_outputs_are_refused(outputs: Any, told: str) -> None:
    assert told in refused(IRIS, FLOWER, outputs=outputs)


# Which requests are alike


def test_requests_are_alike_whatever_their_rows_and_the_way_they_are_answered() -> None:
    plain = decode(IRIS, FLOWER, id="1")
    other = decode(
        IRIS,
        tensor("x", [2, 4], "FP32", [0] * 8),
        parameters={"binary_data_output": True, "priority": 1, "timeout": 5},
        outputs=[{"name": "scores"}, {"name": "label"}],
    )
    assert plain.signature == other.signature
    assert hash(plain.signature) == hash(other.signature)


def test_requests_that_ask_for_something_else_are_not_alike() -> None:
    requests = [
        decode(IRIS, FLOWER),
        decode(IRIS, FLOWER, outputs=[{"name": "label"}]),
        decode(IRIS, FLOWER, parameters={"top": 1}),
        decode(IRIS, FLOWER, parameters={"top": True}),
        decode(IRIS, FLOWER, parameters={"top": "1"}),
    ]
    assert len({request.signature for request in requests}) == len(requests)


def test_requests_with_other_trailing_dimensions_are_not_alike() -> None:
    texts = model(("x", "INT64", (-1, -1)))
    short = decode(texts, tensor("x", [1, 2], "INT64", [1, 2]))
    long = decode(texts, tensor("x", [1, 3], "INT64", [1, 2, 3]))
    assert short.signature != long.signature


# Values in JSON


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("UINT8", 255), ("UINT16", 65535), ("UINT32", 2**32 - 1), ("UINT64", 2**64 - 1),
        ("INT8", -128), ("INT16", -32768), ("INT32", -(2**31)), ("INT64", -(2**63)),
        ("FP16", 65504.0), ("FP32", 3.4028235e38), ("FP64", 1e308), ("FP32", 7), ("BOOL", True),
    ],
)  # fmt: skip
def test_the_last_value_of_each_datatype_is_taken(datatype: str, value: Any) -> None:
    array = one(datatype, (1,), [value])
    assert np.isfinite(array).all()
    assert array.tolist() == [value] if datatype != "FP32" else array[0] == np.float32(value)


@pytest.mark.parametrize(
    ("datatype", "written", "remedy"),
    [
        ("UINT8", "256", "integers"), ("UINT8", "-1", "integers"), ("INT8", "128", "integers"),
        ("INT64", "9223372036854775808", "integers"), ("UINT64", "18446744073709551616", "integers"),
        ("UINT64", "9" * 5000, "integers"), ("INT32", "1.0", "integers"), ("INT32", "1e2", "integers"),
        ("INT32", "true", "integers"), ("INT32", '"1"', "integers"), ("INT32", "null", "integers"),
        ("FP16", "65520", "finite"), ("FP32", "3.5e38", "finite"), ("FP64", "1e309", "finite"),
        ("FP64", '"NaN"', "finite"), ("FP64", "null", "finite"), ("FP32", "true", "finite"),
        ("BOOL", "1", "true or false"), ("BOOL", "0", "true or false"), ("BOOL", '"true"', "true or false"),
        ("BYTES", "1", "strings"), ("BYTES", "null", "strings"), ("BYTES", "{}", "strings"),
    ],
)  # fmt: skip
def test_a_value_of_another_datatype_is_refused(datatype: str, written: str, remedy: str) -> None:
    text = f'{{"inputs":[{{"name":"x","shape":[1],"datatype":"{datatype}","data":[{written}]}}]}}'
    told = refused_bytes(model(("x", datatype, (-1,))), text.encode())
    assert told.startswith(f"Input 'x' has data that is not {datatype}")
    assert remedy in told


def test_the_place_of_a_wrong_value_is_told() -> None:
    told = refused(IRIS, tensor("x", [1, 4], "FP32", [[1, 2, "three", 4]]))
    assert "$[0][2]" in told


@pytest.mark.parametrize("written", ["NaN", "Infinity", "-Infinity"])
def test_nan_and_the_infinities_are_not_json(written: str) -> None:
    text = f'{{"inputs":[{{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,{written}]}}]}}'
    assert "NaN and Infinity are not JSON, and need binary data" in refused_bytes(
        IRIS, text.encode()
    )


def test_strings_are_bytes_in_utf_8() -> None:
    array = one("BYTES", (2, 2), [["é", ""], ["a,b", "\0"]])
    assert array.dtype == np.object_
    assert array.tolist() == [["é".encode(), b""], [b"a,b", b"\0"]]


@pytest.mark.parametrize(
    ("datatype", "data"),
    [("FP32", [[1, 2], [3]]), ("FP32", [[1, 2], []]), ("BYTES", [["a", "b"], ["c"]])],
)
def test_nested_lists_of_different_lengths_are_refused(datatype: str, data: Any) -> None:
    told = refused(model(("x", datatype, (-1, -1))), tensor("x", [2, 2], datatype, data))
    assert "lists differ in length" in told


def test_data_nested_in_another_shape_is_refused() -> None:
    told = refused(
        model(("x", "INT8", (-1, -1))), tensor("x", [2, 3], "INT8", [[1, 2], [3, 4], [5, 6]])
    )
    assert "nested as [3, 2], but its shape is [2, 3]" in told


def test_data_of_another_size_than_the_shape_is_refused() -> None:
    told = refused(IRIS, tensor("x", [1, 4], "FP32", [1, 2, 3]))
    assert told == "Input 'x' has 3 values, but its shape [1, 4] takes 4; make them agree."


def test_values_nested_as_deep_as_numpy_goes_are_read_and_deeper_ones_refused() -> None:
    def nested(depth: int) -> Any:
        return json.loads("[" * depth + "123" + "]" * depth)

    assert one("INT64", (1, 1), nested(50)).tolist() == [[123]]
    for depth in (65, 120, 400):
        told = refused(model(("x", "INT64", (-1, -1))), tensor("x", [1, 1], "INT64", nested(depth)))
        assert "nests its data deeper than 64 lists" in told


@pytest.mark.parametrize("where", ["data", "more"])
def test_json_nested_without_end_is_refused(where: str) -> None:
    deep = b"[" * 200_000 + b"]" * 200_000
    text = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","%b":%b}]}'
    assert "nested too deeply" in refused_bytes(IRIS, text % (where.encode(), deep))


# Inputs against the model


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ([tensor("nope", [1, 4], "FP32", [0] * 4)], "no input 'nope'; it takes 'x'"),
        ([], "Input 'x' is missing; the model takes 'x'"),
        ([FLOWER, FLOWER], "Input 'x' is given twice"),
        ([tensor("x", [1, 4], "FP64", [0] * 4)], "datatype 'FP64', but the model takes FP32"),
        ([tensor("x", [1, 4], "float", [0] * 4)], "datatype 'float', but the model takes FP32"),
        ([tensor("x", [1, 4], "BF16", [0] * 4)], "BF16, which is not supported; send FP32"),
        ([tensor("x", [4], "FP32", [0] * 4)], "shape [4] of 1 dimensions"),
        ([tensor("x", [1, 3], "FP32", [0] * 3)], "shape [1, 3], but the model takes [-1, 4]"),
        ([tensor("x", [-1, 4], "FP32", [0] * 4)], "shape [-1, 4], but the model takes [-1, 4]"),
        ([tensor("x", [2, -5], "FP32", [1.0])], "shape [2, -5]"),
        ([tensor("x", [1, 4], "FP32")], "has no data"),
        ([{**FLOWER, "parameters": {"shared_memory_region": "r"}}], "shared memory"),
        ([{**FLOWER, "parameters": {"shared_memory_byte_size": 16}}], "shared memory"),
    ],
)
def test_inputs_that_the_model_does_not_take_are_refused(inputs: Any, told: str) -> None:
    assert told in refused(IRIS, *inputs)


@pytest.mark.parametrize("shape", [[2**4, 2**60 + 2], [2**2, 2**60 + 2], [0, 2**62], [2**31, 2]])
def test_a_shape_of_more_elements_than_can_be_is_refused(shape: list[int]) -> None:
    told = refused(model(("x", "FP32", (-1, -1))), tensor("x", shape, "FP32", [1.0]))
    assert "elements; send fewer" in told


def test_inputs_of_different_numbers_of_rows_are_refused_when_rows_are_batched() -> None:
    inputs = [tensor("a", [2], "FP32", [1, 2]), tensor("b", [1, 2], "INT8", [1, 2])]
    batched = model(("a", "FP32", (-1,)), ("b", "INT8", (-1, 2)), batches=True)
    assert "'a' has 2 rows, but 'b' has 1" in refused(batched, *inputs)
    assert decode(PAIR, *inputs).rows == 2


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "The body is empty"),
        (b"{", "not JSON"),
        (b'{"inputs":[]} x', "not JSON"),
        (b"[]", "not an inference request"),
        (b"{}", "missing required field `inputs`"),
        (b'{"inputs":{}}', "Expected `array`"),
        (b'{"inputs":[],"id":7}', "$.id"),
        (b'{"inputs":[],"parameters":{"a":{}}}', "$.parameters"),
        (b'{"inputs":[{"shape":[],"datatype":"FP32"}]}', "missing required field `name`"),
        (b'{"inputs":[{"name":"x","shape":[1.0],"datatype":"FP32"}]}', "shape[0]"),
        (b'{"inputs":[{"name":"\xff","shape":[1],"datatype":"FP32"}]}', "not UTF-8"),
        (b'{"inputs":[],"parameters":{"binary_data_output":1}}', "let it be true or false"),
    ],
)
def test_what_is_no_inference_request_is_refused(content: bytes, told: str) -> None:
    assert told in refused_bytes(IRIS, content)


def test_strings_that_are_not_utf_8_are_refused_with_the_remedy() -> None:
    text = b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["\xff"]}]}'
    assert "not UTF-8; send it in binary" in refused_bytes(model(("x", "BYTES", (-1,))), text)


def test_a_model_with_a_datatype_that_the_protocol_cannot_carry_is_refused() -> None:
    with pytest.raises(ModelRefused, match="BF16"):
        Decoder(model(("x", "BF16", (-1,))))


def test_no_message_grows_with_the_request() -> None:
    long = "naïve\n" * 10_000
    many = [1] * 10_000
    for inputs in (
        [tensor(long, [1], "FP32", [1])],
        [tensor("x", [1, 4], long, [1])],
        [tensor("x", many, "FP32", [1])],
        [tensor("x", [10**4000, 4], "FP32", [1])],
        [tensor("x", [1, 4], "FP32", {long: 1})],
        [tensor("x", [1, 4], "FP32", parameters={"binary_data_size": long})],
    ):
        told = refused(IRIS, *inputs)
        assert len(told) <= LONGEST
        assert told.isascii()
        assert told.isprintable()
    named_long = model(*((f"{number}{long}", "FP32", (1,)) for number in range(20)))
    assert len(refused(named_long)) <= LONGEST
