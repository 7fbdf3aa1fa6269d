from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from stackserve.runtimes.base import BadInput, Model, ModelFiles, ModelRefused, TensorSpec
from stackserve.runtimes.onnx import OnnxRuntime, counts_rows
from tests.runtimes import onnx_models

NUMBERS = [
    "FP16",
    "FP32",
    "FP64",
    *(f"{u}INT{bits}" for u in ("", "U") for bits in (8, 16, 32, 64)),
]


def load(folder: Path, data: bytes, **options: Any) -> Model:
    (folder / "model.onnx").write_bytes(data)
    return OnnxRuntime().load(ModelFiles(folder, options))


def refusal(folder: Path, data: bytes, **options: Any) -> ModelRefused:
    with pytest.raises(ModelRefused) as refused:
        load(folder, data, **options)
    return refused.value


def test_the_numbers_are_those_of_onnxruntime(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((150, 4), np.float32)
    data = onnx_models.mlp()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    outputs = load(tmp_path, data).infer({"x": rows}, ["y"])

    np.testing.assert_array_equal(outputs["y"], session.run(["y"], {"x": rows})[0])


def test_metadata_is_of_the_graph_and_a_symbol_is_any_size(tmp_path: Path) -> None:
    metadata = load(tmp_path, onnx_models.add_sub()).metadata

    assert metadata.platform == "onnx_onnxruntime"
    assert metadata.inputs[0] == TensorSpec("INPUT0", "INT32", (-1, 16))
    assert [spec.name for spec in metadata.outputs] == ["OUTPUT0", "OUTPUT1"]
    assert metadata.batches


def test_only_the_wanted_outputs_are_given(tmp_path: Path) -> None:
    ones = np.ones((2, 16), np.int32)
    outputs = load(tmp_path, onnx_models.add_sub()).infer(
        {"INPUT0": ones, "INPUT1": ones}, ["OUTPUT1"]
    )
    assert outputs.keys() == {"OUTPUT1"}
    assert not outputs["OUTPUT1"].any()


@pytest.mark.parametrize("datatype", [*NUMBERS, "BOOL"])
def test_every_datatype_goes_through(tmp_path: Path, datatype: str) -> None:
    model = load(tmp_path, onnx_models.identity(datatype))
    assert model.metadata.inputs[0].datatype == datatype
    x = np.array([[0, 1], [1, 0]]).astype(
        helper.tensor_dtype_to_np_dtype(onnx_models.TYPES[datatype])
    )
    x.flags.writeable = False
    y = model.infer({"x": x}, ["y"])["y"]
    np.testing.assert_array_equal(y, x)
    assert y.dtype == x.dtype


def test_texts_are_bytes_outside_of_the_session(tmp_path: Path) -> None:
    model = load(tmp_path, onnx_models.string_identity())
    x = np.array([[b"", "naïve ☕".encode()]], dtype=object)
    np.testing.assert_array_equal(model.infer({"x": x}, ["y"])["y"], x)


def test_bytes_that_are_no_text_are_bad_input(tmp_path: Path) -> None:
    model = load(tmp_path, onnx_models.string_identity())
    with pytest.raises(BadInput, match="input x"):
        model.infer({"x": np.array([[b"\xff"]], dtype=object)}, ["y"])


def test_what_the_graph_refuses_is_bad_input(tmp_path: Path) -> None:
    model = load(tmp_path, onnx_models.mlp())
    with pytest.raises(BadInput):
        model.infer({"x": np.zeros((1, 5), np.float32)}, ["y"])


def test_rows_of_two_requests_give_together_what_each_gives_alone(tmp_path: Path) -> None:
    model = load(tmp_path, onnx_models.mlp())
    rows = np.random.default_rng(2).standard_normal((5, 4), np.float32)
    together = model.infer({"x": rows}, ["y"])["y"]
    alone = [model.infer({"x": part}, ["y"])["y"] for part in (rows[:2], rows[2:])]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-6)


def test_a_model_is_asked_in_many_threads_at_once(tmp_path: Path) -> None:
    model = load(tmp_path, onnx_models.identity("FP32"))
    rows = [np.full((3, 2), number, np.float32) for number in range(64)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda x: model.infer({"x": x}, ["y"])["y"], rows))
    np.testing.assert_array_equal(answers, rows)


@pytest.mark.parametrize(
    ("shapes", "counts"),
    [
        ([["N", 3], ["N"]], True),
        ([[None, 3], ["N", 2], ["N"]], True),
        ([["N", 3], ["M", 3]], False),
        ([["N", 3], [1, 3]], False),
        ([["N", 3], []], False),
    ],
)
def test_rows_are_counted_when_every_first_dimension_is_the_same_symbol(
    shapes: list[list[int | str | None]], counts: bool
) -> None:
    assert counts_rows(shapes) is counts


def test_an_option_says_whether_rows_may_be_computed_together(tmp_path: Path) -> None:
    assert not load(tmp_path, onnx_models.mlp(), batches=False).metadata.batches
    fixed = onnx_models.identity("FP32", (1, 4))
    assert not load(tmp_path, fixed).metadata.batches
    assert load(tmp_path, fixed, batches=True).metadata.batches


def zipmap() -> bytes:
    nodes = [
        helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    ]
    kind = helper.make_map_type_proto(
        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    )
    output = helper.make_value_info("y", helper.make_sequence_type_proto(kind))
    inputs = [onnx_models.tensor("x", "FP32", ("N", 2))]
    return onnx_models.model(nodes, inputs, [output], domains=("", "ai.onnx.ml"))


def test_a_list_of_maps_is_refused_with_the_way_to_export_without(tmp_path: Path) -> None:
    refused = refusal(tmp_path, zipmap())
    assert refused.code == "unsupported_output"
    assert "'zipmap': False" in refused.message


def test_bfloat16_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, onnx_models.identity("BF16")).code == "unsupported_datatype"


def test_a_file_that_is_cut_off_or_garbage_is_refused(tmp_path: Path) -> None:
    whole = onnx_models.mlp()
    for data in (
        b"",
        b"\0" * 100,
        b"location" * 9,
        b"\xff" * 500,
        *(whole[:n] for n in range(5, len(whole), 40)),
    ):
        assert refusal(tmp_path, data).code in {"invalid_model"}, data[:20]


def test_an_operator_that_is_not_known_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Own", ["x"], ["y"], domain="org.own")]
    ends = [onnx_models.tensor(name, "FP32", ("N",)) for name in "xy"]
    data = onnx_models.model(nodes, ends[:1], ends[1:], domains=("", "org.own"))
    assert refusal(tmp_path, data).code == "invalid_model"


def test_one_of_several_files_is_named_by_an_option(tmp_path: Path) -> None:
    for name, datatype in (("a", "FP32"), ("b", "INT64")):
        (tmp_path / f"{name}.onnx").write_bytes(onnx_models.identity(datatype))
    with pytest.raises(ModelRefused) as refused:
        OnnxRuntime().load(ModelFiles(tmp_path))
    assert refused.value.code == "format_ambiguous"
    model = OnnxRuntime().load(ModelFiles(tmp_path, {"file": "b.onnx"}))
    assert model.metadata.inputs[0].datatype == "INT64"
