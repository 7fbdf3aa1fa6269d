"""External data must lie beside the ONNX file, and is found wherever a graph can hide it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stackserve.runtimes.base import ModelFiles, ModelRefused
from stackserve.runtimes.onnx import OnnxRuntime
from stackserve.runtimes.onnx_external import Malformed, external_files, locations
from tests.runtimes import onnx_models


def outside(location: str, name: str = "w") -> onnx.TensorProto:
    """Four floats that are kept in another file."""
    kept = onnx.TensorProto(
        name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL
    )
    kept.external_data.add(key="location", value=location)
    return kept


def adder(location: str) -> bytes:
    ends = [onnx_models.tensor(name, "FP32", ("N", 4)) for name in "xy"]
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    return onnx_models.model(nodes, ends[:1], ends[1:], [outside(location)])


def refusal(folder: Path, location: str) -> ModelRefused:
    (folder / "model.onnx").write_bytes(adder(location))
    with pytest.raises(ModelRefused) as refused:
        OnnxRuntime().load(ModelFiles(folder))
    with pytest.raises(ModelRefused, match=r"model\.onnx"):
        OnnxRuntime().estimate(ModelFiles(folder))
    return refused.value


def test_a_file_in_the_folder_is_read_and_charged(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(adder("w.bin"))
    w = np.arange(4, dtype=np.float32)
    (tmp_path / "w.bin").write_bytes(w.tobytes() + bytes(1 << 20))
    files = ModelFiles(tmp_path)

    y = OnnxRuntime().load(files).infer({"x": np.ones((2, 4), np.float32)}, ["y"])["y"]

    np.testing.assert_array_equal(y, np.ones((2, 4)) + w)
    assert OnnxRuntime().estimate(files) > 2 << 20


@pytest.mark.parametrize(
    "location",
    [
        "../w.bin",
        "/etc/passwd",
        "a/w.bin",
        "..",
        ".",
        "",
        "a\\w.bin",
        "w\0.bin",
        "*/_ORT_MEM_ADDR_/*",
    ],
)
def test_a_place_outside_of_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(16))
    inner = tmp_path / "inner"
    inner.mkdir()
    assert refusal(inner, location).code in {"unsafe_external_data", "file_missing"}


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(16))
    inner = tmp_path / "inner"
    inner.mkdir()
    os.symlink(tmp_path / "w.bin", inner / "w.bin")
    assert refusal(inner, "w.bin").code == "unsafe_external_data"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    refused = refusal(tmp_path, "w.bin")
    assert refused.code == "file_missing"
    assert "w.bin" in refused.message


def everywhere() -> onnx.ModelProto:
    """A model with external data in each kind of place, of which none is used."""
    here = iter(range(100))

    def kept() -> onnx.TensorProto:
        return outside(f"../{next(here)}")

    def sparse() -> onnx.SparseTensorProto:
        return helper.make_sparse_tensor(kept(), kept(), [9])

    inner = helper.make_graph([], "inner", [], [], [kept()])
    attributes = {
        "t": kept(),
        "g": inner,
        "ts": [kept(), kept()],
        "gs": [inner, inner],
        "s": sparse(),
    }
    node = helper.make_node("Any", [], ["a"], **attributes)
    many = onnx.AttributeProto(name="ss", type=onnx.AttributeProto.SPARSE_TENSORS)
    many.sparse_tensors.extend([sparse()])
    node.attribute.append(many)
    default = helper.make_attribute("d", kept())
    function = helper.make_function(
        "f", "F", [], ["a"], [node], [helper.make_opsetid("", 17)], attribute_protos=[default]
    )
    graph = helper.make_graph([node], "g", [], [], [kept()], sparse_initializer=[sparse()])
    made = helper.make_model(graph, functions=[function])
    training = made.training_info.add()
    training.initialization.CopyFrom(helper.make_graph([], "i", [], [], [kept()]))
    training.algorithm.CopyFrom(helper.make_graph([], "a", [], [], [kept()]))
    assert next(here) == 14
    return made


def test_external_data_is_found_in_every_kind_of_place() -> None:
    assert locations(everywhere().SerializeToString()) == {b"../%d" % n for n in range(14)}


def test_every_value_of_a_repeated_key_counts() -> None:
    entry = onnx.StringStringEntryProto(key="location", value="fine").SerializeToString()
    entry += onnx.StringStringEntryProto(value="../bad").SerializeToString()
    kept = bytes([13 << 3 | 2, len(entry)]) + entry
    graph = bytes([5 << 3 | 2, len(kept)]) + kept
    assert locations(bytes([7 << 3 | 2, len(graph)]) + graph) == {b"fine", b"../bad"}


def test_thirty_thousand_graphs_in_each_other_are_walked_through() -> None:
    """Inside out: a graph's node's attribute's graph, and so on."""
    depth, parts, size = 30_000, [outside("../deep").SerializeToString()], 0
    size = len(parts[0])

    def wrap(field: int) -> None:
        nonlocal size
        head = bytes([field << 3 | 2]) + varint(size)
        parts.append(head)
        size += len(head)

    wrap(5)
    for _ in range(depth):
        for field in (6, 5, 1):
            wrap(field)
    wrap(7)
    assert locations(b"".join(reversed(parts))) == {b"../deep"}


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


@pytest.mark.parametrize(
    "data",
    [b"\x3a", b"\x3a\x05ab", b"\xff" * 6, b"\x3b", b"\x02\x00", b"\x39abc", b"\x3a\xff\xff\xff\xff\x7f",
     b"\xba\x80\x80\x80\x80\x80\x00\x00"],
)  # fmt: skip
def test_bytes_that_no_writer_writes_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        locations(data)


def test_no_bytes_make_the_walk_fail_otherwise(tmp_path: Path) -> None:
    whole = adder("w.bin")
    (tmp_path / "w.bin").write_bytes(bytes(16))
    numbers = np.random.default_rng(0)
    codes = set()
    for _ in range(2000):
        data = bytearray(whole)
        for place in numbers.integers(len(data), size=3):
            data[place] = numbers.integers(256)
        (tmp_path / "model.onnx").write_bytes(data)
        try:
            external_files(tmp_path / "model.onnx")
        except ModelRefused as refused:
            codes.add(refused.code)
    assert codes == {"invalid_model", "unsafe_external_data", "file_missing"}


def test_weights_of_many_kinds_hold_nothing_external() -> None:
    weight = numpy_helper.from_array(np.zeros((50, 50), np.float32), "location")
    ends = [onnx_models.tensor(name, "FP32", ("N", 50)) for name in "xy"]
    nodes = [helper.make_node("MatMul", ["x", "location"], ["y"])]
    assert locations(onnx_models.model(nodes, ends[:1], ends[1:], [weight])) == set()
