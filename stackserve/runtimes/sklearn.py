"""scikit-learn models saved by skops (.skops), and pickles of those who ask for them.

Input `input`, FP64 [-1, features]: a model is nearly always fitted to doubles, and with floats some
estimators give other numbers. The option `datatype` (FP32, FP64, INT32, INT64) changes it, for clients
that hold something else. The outputs are named for the methods that give them, and their datatypes and
shapes are learnt at load, from one row of zeros or of `sample`; classes that are texts are BYTES.
Options: `file`; `datatype`; `method`, one or a list of predict (without the option), predict_proba,
predict_log_proba, decision_function, transform, score_samples; `sample`, a row of numbers that the model
accepts, where it does not accept zeros; `batches`; `trusted`, names of further types to be trusted in a
.skops file, which count only with allow_unsafe_formats.

A .skops file is refused before anything of it is made, when it has a type or function that neither skops nor
`sklearn_trusted.py` trusts. Even so a crafted tree may read memory where it should not, and end the process:
that is why these models have a worker of their own. Pickles (.pkl, .joblib) run the code that is in them,
and are read with allow_unsafe_formats alone.

scikit-learn's methods that predict change no estimator, so that any number of threads may call them. The
model's `n_jobs` are set to what one request may use; OpenMP and BLAS keep to the worker's environment.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import joblib  # type: ignore[import-untyped]
import msgspec
import numpy as np
import numpy.typing as npt
import skops.io

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
from stackserve.runtimes.datatypes import DATATYPES, NAMES, objects
from stackserve.runtimes.model_file import find_file, invalid_options, read_options
from stackserve.runtimes.sklearn_trusted import TRUSTED

Method = Literal[
    "predict",
    "predict_proba",
    "predict_log_proba",
    "decision_function",
    "transform",
    "score_samples",
]
PICKLES = frozenset({".pkl", ".pickle", ".joblib", ".sav"})

ARRAYS, SCHEMA, PICKLED = 3, 20, 3
"""Bytes at the height of loading, per byte of a .skops file's arrays and of its schema, and of a pickle: for
the arrays of neighbours 2.0 were measured, for forests 3.0 of the whole file.
`python -m tests.runtimes.test_estimates` measures again.
"""
LEAST = 1 << 20

# A model that was fitted to a data frame is asked with an array here, always.
warnings.filterwarnings("ignore", message="X does not have valid feature names")


class SklearnOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a member."""

    file: str | None = None
    datatype: Literal["FP32", "FP64", "INT32", "INT64"] = "FP64"
    method: Method | list[Method] = "predict"
    sample: list[float] | None = None
    batches: bool = True
    trusted: list[str] = []


class SklearnModel(Model):
    """An estimator, and its methods by the names of the outputs."""

    def __init__(self, estimator: Any, metadata: Metadata) -> None:
        self._estimator = estimator
        self.metadata = metadata
        self._specs = {spec.name: spec for spec in metadata.outputs}

    def infer(self, inputs: Tensors, wanted: Collection[str]) -> Tensors:
        rows = inputs["input"]
        if not rows.flags.writeable:  # some estimators' compiled parts take no read-only array
            rows = rows.copy()
        try:
            return {
                name: _tensor(getattr(self._estimator, name)(rows), self._specs[name].datatype)
                for name in wanted
            }
        except (ValueError, TypeError) as error:
            raise BadInput(f"scikit-learn refuses the input: {first_line(error)}") from error


class SklearnRuntime(Runtime):
    """Loads .skops files, and pickles where unsafe formats are allowed."""

    def estimate(self, files: ModelFiles) -> int:
        path = model_file(files, read_options(files, SklearnOptions))
        if path.suffix in PICKLES:
            return LEAST + PICKLED * path.stat().st_size
        try:
            with zipfile.ZipFile(path) as archive:
                sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        except (zipfile.BadZipFile, ValueError, OSError) as error:
            raise _invalid(path, error) from error
        schema = sizes.pop("schema.json", 0)
        return LEAST + ARRAYS * sum(sizes.values()) + SCHEMA * schema

    def load(self, files: ModelFiles) -> Model:
        options = read_options(files, SklearnOptions)
        path = model_file(files, options)
        try:
            if path.suffix in PICKLES:
                estimator = joblib.load(path)
            else:
                extra = options.trusted if files.allow_unsafe else []
                refuse_untrusted(path, extra)
                estimator = skops.io.load(path, trusted=[*TRUSTED, *extra])
        except (ModelRefused, MemoryError):
            raise
        except Exception as error:  # whatever a damaged file makes of the reader
            raise _invalid(path, error) from error
        use_threads(estimator, files.threads)
        return SklearnModel(estimator, describe(estimator, path.name, files, options))


def model_file(files: ModelFiles, options: SklearnOptions) -> Path:
    """Raises ModelRefused."""
    return find_file(files, {".skops"}, usual="model.skops", chosen=options.file, unsafe=PICKLES)


def refuse_untrusted(path: Path, extra: Sequence[str]) -> None:
    """Raises ModelRefused where the file has a type that is not trusted. Makes nothing of the file."""
    strangers = sorted({*skops.io.get_untrusted_types(file=path)} - TRUSTED - {*extra})
    if strangers:
        raise ModelRefused(
            "untrusted_type",
            f"{path.name} holds {', '.join(strangers[:5])}, which may run code of the file; save a model without "
            "it, or name it in the option trusted and set allow_unsafe_formats if you made the file yourself",
        )


def use_threads(estimator: Any, threads: int) -> None:
    """Every `n_jobs` of the estimator and of those within it, which as saved may start processes."""
    if not hasattr(estimator, "get_params"):
        return
    jobs = [name for name in estimator.get_params() if name.rpartition("__")[2] == "n_jobs"]
    estimator.set_params(**dict.fromkeys(jobs, threads))


def describe(estimator: Any, name: str, files: ModelFiles, options: SklearnOptions) -> Metadata:
    """Ask the model once, and look at what it gives. Raises ModelRefused."""
    sample = options.sample
    features = len(sample) if sample else getattr(estimator, "n_features_in_", None)
    if features is None:
        raise invalid_options(
            files, f"{name} has no n_features_in_; give a row of numbers as sample"
        )
    row = np.array([sample or [0] * features]).astype(DATATYPES[options.datatype])
    methods = [options.method] if isinstance(options.method, str) else options.method
    outputs = tuple(_output(estimator, method, row, files, name) for method in methods)
    if not outputs:
        raise invalid_options(files, "method is an empty list; name one")
    spec = TensorSpec("input", options.datatype, (-1, features))
    return Metadata("sklearn", (spec,), outputs, options.batches)


def _output(
    estimator: Any, method: str, row: npt.NDArray[Any], files: ModelFiles, name: str
) -> TensorSpec:
    if not hasattr(estimator, method):
        raise invalid_options(
            files, f"{type(estimator).__name__} in {name} has no {method}; name another method"
        )
    try:
        result = getattr(estimator, method)(row)
    except Exception as error:  # whatever an estimator raises
        raise ModelRefused(
            "probe_failed",
            f"{method} of {name} fails for a row of {row[0].tolist()[:5]} ({first_line(error)}); fit the model to "
            "arrays, not to data frames, or give a row that it accepts in the option sample",
        ) from error
    if isinstance(result, list) or not hasattr(result, "dtype"):
        raise ModelRefused(
            "unsupported_output",
            f"{method} of {name} gives a {type(result).__name__} and not an array; name another method",
        )
    kind = result.dtype
    datatype = "BYTES" if kind.kind in "UO" else NAMES.get(kind.newbyteorder("="))
    if datatype is None:
        raise ModelRefused(
            "unsupported_datatype",
            f"{method} of {name} gives {kind}, which is not served; fit to numbers",
        )
    return TensorSpec(method, datatype, (-1, *result.shape[1:]))


def _tensor(result: Any, datatype: str) -> npt.NDArray[Any]:
    if hasattr(result, "toarray"):  # it is sparse
        result = result.toarray()
    if datatype != "BYTES":
        return np.asarray(result, dtype=DATATYPES[datatype])
    return objects([str(value).encode() for value in result.flat]).reshape(result.shape)


def _invalid(path: Path, error: Exception) -> ModelRefused:
    return ModelRefused(
        "invalid_model",
        f"{path.name} is no whole model ({type(error).__name__}: {first_line(error)}); save it again with the "
        "scikit-learn of this worker",
    )
