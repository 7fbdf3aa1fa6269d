"""Small ONNX models, made here. Each function gives the bytes of a file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TYPES = {
    "BOOL": TensorProto.BOOL, "BYTES": TensorProto.STRING, "BF16": TensorProto.BFLOAT16,
    "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
    "INT8": TensorProto.INT8, "INT16": TensorProto.INT16, "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32, "UINT64": TensorProto.UINT64,
}  # fmt: skip
"""onnx's types by the protocol's names."""

Shape = Sequence[int | str | None]


def add_sub() -> bytes:
    """Triton's `simple`: OUTPUT0 is INPUT0 + INPUT1, OUTPUT1 their difference, all INT32 [batch, 16]."""
    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    shape = ("batch", 16)
    return model(
        nodes,
        [tensor(f"INPUT{n}", "INT32", shape) for n in (0, 1)],
        [tensor(f"OUTPUT{n}", "INT32", shape) for n in (0, 1)],
    )


def identity(datatype: str, shape: Shape = ("batch", "n")) -> bytes:
    """`y` is `x`."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    return model(nodes, [tensor("x", datatype, shape)], [tensor("y", datatype, shape)])


def string_identity() -> bytes:
    """`y` is `x`, BYTES [batch, n]."""
    return identity("BYTES")


def mlp(features: int = 4, hidden: int = 8, classes: int = 3, seed: int = 0) -> bytes:
    """Probabilities `y` FP32 [batch, classes] of `x` FP32 [batch, features]."""
    numbers = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(numbers.standard_normal(shape, np.float32), name)

    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"]),
        helper.make_node("Relu", ["a"], ["h"]),
        helper.make_node("Gemm", ["h", "w2", "b2"], ["z"]),
        helper.make_node("Softmax", ["z"], ["y"]),
    ]
    weights = [
        weight("w1", features, hidden), weight("b1", hidden),
        weight("w2", hidden, classes), weight("b2", classes),
    ]  # fmt: skip
    inputs = [tensor("x", "FP32", ("batch", features))]
    return model(nodes, inputs, [tensor("y", "FP32", ("batch", classes))], weights)


def tensor(name: str, datatype: str, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TYPES[datatype], shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto] = (),
    domains: Sequence[str] = ("",),
) -> bytes:
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    opsets = [helper.make_opsetid(domain, 3 if domain else 17) for domain in domains]
    made = helper.make_model(graph, opset_imports=opsets)
    made.ir_version = 8
    return bytes(made.SerializeToString())
