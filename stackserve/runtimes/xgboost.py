"""XGBoost models saved as .ubj or .json.

Input `input`, FP32 [-1, features]: XGBoost computes in FP32. NaN is a missing value. Output `output`, FP32:
what the objective makes of the margins, such as probabilities, with the option `output_margin` the margins.
Options: `file`; `datatype`, FP64 for clients that send doubles; `output_margin`; `best_iteration`: a
model that was stopped early answers as XGBoost's scikit-learn interface does, with the trees up to its best
iteration; false takes all of them, as Booster.predict does.

XGBoost trusts what a file says: a truncated .ubj, or a child that is no node, ended the process in our
tests. So both are checked before XGBoost sees the file, and what gets by ends this worker alone.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import msgspec
import numpy as np
import xgboost

from stackserve.runtimes import ubjson, xgboost_trees
from stackserve.runtimes.base import (
    BadInput,
    Metadata,
    Model,
    ModelFiles,
    ModelRefused,
    Runtime,
    Tensors,
    TensorSpec,
    first_line,
)
from stackserve.runtimes.model_file import find_file, read_options

SUFFIXES = frozenset({".ubj", ".json"})
MEMORY = {".ubj": 6, ".json": 18}
"""Bytes at the height of loading, per byte of the file: 5 and 14.5 were measured.
`python -m tests.runtimes.test_estimates` measures again.
"""
LEAST = 1 << 20


class XgboostOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a member."""

    file: str | None = None
    datatype: Literal["FP32", "FP64"] = "FP32"
    output_margin: bool = False
    best_iteration: bool = True


class XgboostModel(Model):
    """A booster. Its in-place prediction may be run by any number of threads at once; a linear booster
    has none, and is asked by one at a time.
    """

    def __init__(self, booster: Any, options: XgboostOptions, *, linear: bool) -> None:
        self._booster = booster
        self._kind = "margin" if options.output_margin else "value"
        self._linear = linear
        self._one_at_a_time = Lock()
        self._range = (0, 0)
        if options.best_iteration and not linear and booster.attr("best_iteration") is not None:
            self._range = (0, booster.best_iteration + 1)
        features = booster.num_features()
        # The first prediction configures the booster, which no two threads may do at once.
        probe = self._predict(np.zeros((1, features), np.float32))
        self._width = probe.shape[1:]
        self.metadata = Metadata(
            "xgboost",
            (TensorSpec("input", options.datatype, (-1, features)),),
            (TensorSpec("output", "FP32", (-1, *self._width)),),
        )

    def infer(self, inputs: Tensors, wanted: Collection[str]) -> Tensors:
        rows = inputs["input"]
        try:
            result = self._predict(rows)
        except (ValueError, xgboost.core.XGBoostError) as error:
            raise BadInput(f"xgboost refuses the input: {first_line(error)}") from error
        result = result.reshape(len(rows), *self._width)
        return dict.fromkeys(wanted, result)

    def _predict(self, rows: Any) -> Any:
        if self._linear:
            with self._one_at_a_time:
                return self._booster.predict(
                    xgboost.DMatrix(rows), output_margin=self._kind == "margin"
                )
        return self._booster.inplace_predict(
            rows, iteration_range=self._range, predict_type=self._kind
        )


class XgboostRuntime(Runtime):
    """Loads .ubj and .json."""

    def estimate(self, files: ModelFiles) -> int:
        path = model_file(files, read_options(files, XgboostOptions))
        return LEAST + MEMORY[path.suffix] * path.stat().st_size

    def load(self, files: ModelFiles) -> Model:
        options = read_options(files, XgboostOptions)
        path = model_file(files, options)
        data = path.read_bytes()
        linear = check(path, data)
        try:
            # What was checked is what is loaded, even if the file is written over meanwhile.
            booster = xgboost.Booster({"nthread": files.threads}, model_file=bytearray(data))
            return XgboostModel(booster, options, linear=linear)
        except (ValueError, TypeError, xgboost.core.XGBoostError) as error:
            raise ModelRefused(
                "invalid_model",
                f"{path.name} is not loaded by xgboost {xgboost.__version__} ({first_line(error)}); save the "
                "model again",
            ) from error


def model_file(files: ModelFiles, options: XgboostOptions) -> Path:
    """Raises ModelRefused."""
    chosen = options.file
    if chosen is None and (files.folder / "model.ubj").is_file():
        chosen = "model.ubj"
    return find_file(files, SUFFIXES, usual="model.json", chosen=chosen)


def check(path: Path, data: bytes) -> bool:
    """Whether the booster is linear. Raises ModelRefused for what XGBoost must not read."""
    try:
        is_json = path.suffix == ".json"
        model = json.loads(data, object_pairs_hook=_once) if is_json else ubjson.parse(data)
        xgboost_trees.check(model)
    except (ValueError, RecursionError, ubjson.Malformed, xgboost_trees.BadTrees) as error:
        raise ModelRefused(
            "invalid_model",
            f"{path.name} is no whole XGBoost model ({error}); save the model again with save_model",
        ) from error
    return bool(model["learner"]["gradient_booster"]["name"] == "gblinear")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers may take different ones of two equal keys."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found
