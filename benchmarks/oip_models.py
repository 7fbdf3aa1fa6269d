"""The models that are served, and requests to them whose answers are known beforehand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.http_load import post

WIDTH = 4
"""Of every model's input."""
HIDDEN, CLASSES = 16, 3
INPUT, OUTPUT = "input", "output"
MODEL_FILE = "model.onnx"
SMALL_INPUTS = 64
"""Different inputs to the small model, so that an answer to another request is seen."""
ZOO_INPUTS = 2
ZOO_BYTES = 8 << 20
"""Of one of the zoo's models."""
OPSET, IR_VERSION = 17, 8
"""Old enough for every onnxruntime that a server may have."""

Floats = npt.NDArray[np.float32]


class Encoding(StrEnum):
    JSON = "JSON"
    BINARY = "binary"


@dataclass(frozen=True)
class Request:
    """A whole HTTP request, and the numbers that answer it."""

    sent: bytes
    answer: Floats


@dataclass(frozen=True)
class ZooModel:
    """`name` multiplies its input by `factor`, which no other does."""

    name: str
    factor: int
    folder: Path


def write_small_model(folder: Path) -> None:
    """A perceptron of 4, 16 and 3 neurons."""
    w1, b1, w2, b2 = small_weights()
    initial = {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
    nodes = [
        helper.make_node("Gemm", [INPUT, "w1", "b1"], ["sums"]),
        helper.make_node("Relu", ["sums"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "w2", "b2"], [OUTPUT]),
    ]
    _write(folder, nodes, initial, CLASSES)


def small_weights() -> tuple[Floats, Floats, Floats, Floats]:
    random = np.random.default_rng(6)
    shapes = ((WIDTH, HIDDEN), (HIDDEN,), (HIDDEN, CLASSES), (CLASSES,))
    w1, b1, w2, b2 = (random.normal(size=shape).astype(np.float32) for shape in shapes)
    return w1, b1, w2, b2


def write_zoo(folder: Path, count: int, size: int = ZOO_BYTES) -> tuple[ZooModel, ...]:
    """Models whose weights are `size` bytes each, all of them needed: the row that the input is
    multiplied by is looked up, in a table that holds the model's own number everywhere.
    """
    nodes = [
        helper.make_node("ArgMax", [INPUT], ["place"], axis=1, keepdims=0),
        helper.make_node("Gather", ["table", "place"], ["row"]),
        helper.make_node("Mul", [INPUT, "row"], [OUTPUT]),
    ]
    zoo = []
    for number in range(count):
        model = ZooModel(f"m{number}", number + 1, folder / f"m{number}")
        table = np.full((size // (4 * WIDTH), WIDTH), model.factor, np.float32)
        _write(model.folder, nodes, {"table": table}, WIDTH)
        zoo.append(model)
    return tuple(zoo)


def _write(
    folder: Path, nodes: Sequence[onnx.NodeProto], initial: dict[str, Floats], outputs: int
) -> None:
    graph = helper.make_graph(
        nodes,
        folder.name,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["rows", WIDTH])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["rows", outputs])],
        [numpy_helper.from_array(values, name) for name, values in initial.items()],
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL_FILE).write_bytes(model.SerializeToString())


def small_requests(model: str, rows: int, encoding: Encoding) -> tuple[Request, ...]:
    """Requests of so many rows each."""
    w1, b1, w2, b2 = small_weights()
    inputs = random_inputs(SMALL_INPUTS, rows)
    return tuple(
        Request(
            encoded_request(model, number, values, encoding),
            np.maximum(values @ w1 + b1, 0) @ w2 + b2,
        )
        for number, values in enumerate(inputs)
    )


def zoo_requests(zoo: Sequence[ZooModel]) -> tuple[Request, ...]:
    """`ZOO_INPUTS` for every model, one model after the other."""
    inputs = random_inputs(ZOO_INPUTS, 1)
    return tuple(
        Request(
            encoded_request(each.name, number, values, Encoding.JSON),
            (values * each.factor).astype(np.float32),
        )
        for each in zoo
        for number, values in enumerate(inputs)
    )


def random_inputs(count: int, rows: int) -> Floats:
    """Of a few decimals each, as people write them."""
    random = np.random.default_rng(rows)
    return random.normal(size=(count, rows, WIDTH)).round(3).astype(np.float32)


def zipf_order(models: int, length: int, seed: int) -> npt.NDArray[np.uint32]:
    """Indices of `zoo_requests`: the k-th most popular model is asked k times less often than the
    first; which that is, is drawn too.
    """
    random = np.random.default_rng(seed)
    weights = 1 / np.arange(1, models + 1)
    ranks = random.choice(models, length, p=weights / weights.sum())
    chosen = random.permutation(models)[ranks]
    return (chosen * ZOO_INPUTS + random.integers(ZOO_INPUTS, size=length)).astype(np.uint32)


def encoded_request(model: str, number: int, values: Floats, encoding: Encoding) -> bytes:
    """With an id of its own: a server that is given none may make up a new one each time."""
    tensor: dict[str, object] = {"name": INPUT, "shape": list(values.shape), "datatype": "FP32"}
    body: dict[str, object] = {"id": f"r{number}", "inputs": [tensor]}
    path = f"/v2/models/{model}/infer"
    if encoding is Encoding.JSON:
        tensor["data"] = [round(float(each), 3) for each in values.flat]
        return post(path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    raw = values.astype("<f4").tobytes()
    tensor["parameters"] = {"binary_data_size": len(raw)}
    body["outputs"] = [{"name": OUTPUT, "parameters": {"binary_data": True}}]
    head = json.dumps(body).encode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    return post(path, head + raw, headers)
