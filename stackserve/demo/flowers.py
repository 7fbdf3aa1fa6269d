"""Trains small models of scikit-learn's iris flowers, one for each framework, in seconds in all.

Each takes `input`, FP32 [-1, 4]: length and width of the sepals, then of the petals, in cm. Each tells how
likely setosa, versicolor and virginica are. Everything has a seed, so the models are the same each time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

SEED = 0
ROUNDS = 20
"""Of boosting."""
SAMPLE = 75
"""Flowers of which a tenant's model knows."""
NETWORK = {"inputs": 4, "outputs": 3, "hidden": [16], "activation": "relu"}


def iris() -> tuple[Any, Any]:
    """The measures, FP32 [150, 4], and the kinds, INT64 [150], in 0, 1, 2."""
    import numpy as np
    from sklearn.datasets import load_iris

    measures, kinds = load_iris(return_X_y=True)
    return measures.astype(np.float32), kinds


def write_onnx(folder: Path) -> None:
    """Linear discriminants, written node by node."""
    measures, kinds = iris()
    (folder / "model.onnx").write_bytes(_discriminants(measures, kinds))


def write_tenant(folder: Path, seed: int) -> None:
    """Linear discriminants of flowers that are this tenant's own, as ONNX."""
    import numpy as np

    measures, kinds = iris()
    own = np.random.default_rng(seed).permutation(len(kinds))[:SAMPLE]
    (folder / "model.onnx").write_bytes(_discriminants(measures[own], kinds[own]))


def write_sklearn(folder: Path) -> None:
    """A forest over scaled measures, as skops writes it: without code, unlike a pickle."""
    import skops.io
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    forest = RandomForestClassifier(n_estimators=20, max_depth=4, random_state=SEED)
    pipeline = make_pipeline(StandardScaler(), forest).fit(*iris())
    skops.io.dump(pipeline, folder / "model.skops")


def write_xgboost(folder: Path) -> None:
    """Boosted trees, as XGBoost's binary JSON."""
    import xgboost

    measures, kinds = iris()
    options = {"objective": "multi:softprob", "num_class": 3, "max_depth": 3, "nthread": 1}
    booster = xgboost.train(options, xgboost.DMatrix(measures, kinds), ROUNDS)
    booster.save_model(folder / "model.ubj")


def write_lightgbm(folder: Path) -> None:
    """Boosted trees, as LightGBM's text."""
    import lightgbm

    measures, kinds = iris()
    options = {
        "objective": "multiclass", "num_class": 3, "num_leaves": 7, "min_data_in_leaf": 10,
        "num_threads": 1, "deterministic": True, "seed": SEED, "verbosity": -1,
    }  # fmt: skip
    booster = lightgbm.train(options, lightgbm.Dataset(measures, kinds), ROUNDS)
    booster.save_model(folder / "model.txt")


def write_torch(folder: Path) -> None:
    """A perceptron: weights as safetensors, and architecture.json, which says what they are of."""
    import torch
    from safetensors.torch import save_file

    from stackserve.runtimes.architectures import mlp

    measures, kinds = (torch.from_numpy(array) for array in iris())
    torch.manual_seed(SEED)
    network = mlp(**NETWORK)  # type: ignore[arg-type]  # the values are of their own types
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(measures), kinds).backward()
        optimizer.step()
    save_file(network.state_dict(), folder / "model.safetensors")
    description = {
        "architecture": "mlp",
        "arguments": NETWORK,
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}],
    }
    (folder / "architecture.json").write_text(json.dumps(description, indent=2) + "\n")


FLOWERS: dict[str, Callable[[Path], None]] = {
    "onnx": write_onnx,
    "sklearn": write_sklearn,
    "xgboost": write_xgboost,
    "lightgbm": write_lightgbm,
    "torch": write_torch,
}
"""What writes the model of a framework into a folder."""


def _discriminants(measures: Any, kinds: Any) -> bytes:
    """An ONNX file: `probabilities` FP32 [-1, 3] of `input` FP32 [-1, 4]."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    fitted = LinearDiscriminantAnalysis().fit(measures, kinds)
    weights = [
        numpy_helper.from_array(fitted.coef_.T.astype(np.float32), "weights"),
        numpy_helper.from_array(fitted.intercept_.astype(np.float32), "bias"),
    ]
    nodes = [
        helper.make_node("Gemm", ["input", "weights", "bias"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"]),
    ]
    given, told = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", width])
        for name, width in (("input", 4), ("probabilities", 3))
    )
    graph = helper.make_graph(nodes, "iris", [given], [told], weights)
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    return bytes(model.SerializeToString())
