"""LightGBM models in its text format (.txt, .lgb).

Input `input`, FP64 [-1, features]: LightGBM compares doubles. NaN is a missing value. Output `output`,
FP64: what the objective makes of the sums, such as probabilities; with the option `raw_score` the sums.
Options: `file`; `datatype`, FP32 for clients that send floats; `raw_score`.

LightGBM trusts what a file says: files cut off at 116 of 150 places ended the process, and so did half of
those with a few characters changed. So `lightgbm_text.py` checks a file before LightGBM sees it, and what
gets by ends this worker alone.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import lightgbm
import msgspec
import numpy as np

from stackserve.runtimes import lightgbm_text
from stackserve.runtimes.base import (
    BadInput,
    Metadata,
    Model,
    ModelFiles,
    ModelRefused,
    Runtime,
    Tensors,
    TensorSpec,
)
from stackserve.runtimes.model_file import find_file, read_options

SUFFIXES = frozenset({".txt", ".lgb"})
MEMORY = 7
"""Bytes at the height of loading, per byte of the file: 5.9 were measured, and 1 afterwards.
`python -m tests.runtimes.test_estimates` measures again.
"""
LEAST = 1 << 20

lightgbm.register_logger(logging.getLogger(__name__))


class LightgbmOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a member."""

    file: str | None = None
    datatype: Literal["FP32", "FP64"] = "FP64"
    raw_score: bool = False


class LightgbmModel(Model):
    """A booster, asked by one thread at a time: LightGBM promises no more, and it uses `threads` itself."""

    def __init__(self, booster: Any, options: LightgbmOptions, threads: int) -> None:
        self._booster = booster
        self._arguments = {"raw_score": options.raw_score, "num_threads": threads, "verbosity": -1}
        self._one_at_a_time = Lock()
        features = booster.num_feature()
        probe = booster.predict(np.zeros((1, features)), **self._arguments)
        self.metadata = Metadata(
            "lightgbm",
            (TensorSpec("input", options.datatype, (-1, features)),),
            (TensorSpec("output", "FP64", (-1, *probe.shape[1:])),),
        )

    def infer(self, inputs: Tensors, wanted: Collection[str]) -> Tensors:
        rows = inputs["input"]
        if not len(rows):
            raise BadInput("input holds no row")
        try:
            with self._one_at_a_time:
                result = self._booster.predict(rows, **self._arguments)
        except (ValueError, lightgbm.basic.LightGBMError) as error:
            raise BadInput(f"lightgbm refuses the input: {error}") from error
        return dict.fromkeys(wanted, result)


class LightgbmRuntime(Runtime):
    """Loads text models."""

    def estimate(self, files: ModelFiles) -> int:
        path = model_file(files, read_options(files, LightgbmOptions))
        return LEAST + MEMORY * path.stat().st_size

    def load(self, files: ModelFiles) -> Model:
        options = read_options(files, LightgbmOptions)
        path = model_file(files, options)
        data = path.read_bytes()
        try:
            # What was checked is what is loaded, even if the file is written over meanwhile.
            booster = lightgbm.Booster(model_str=lightgbm_text.checked(data).decode())
            return LightgbmModel(booster, options, files.threads)
        except (ValueError, lightgbm_text.BadText, lightgbm.basic.LightGBMError) as error:
            raise ModelRefused(
                "invalid_model",
                f"{path.name} is no whole LightGBM text model ({error}); save it again with save_model",
            ) from error


def model_file(files: ModelFiles, options: LightgbmOptions) -> Path:
    """Raises ModelRefused."""
    return find_file(files, SUFFIXES, usual="model.txt", chosen=options.file)
