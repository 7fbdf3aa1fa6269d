"""TensorFlow's SavedModels: a folder of saved_model.pb and variables/."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
import tensorflow

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
from stackserve.runtimes.datatypes import DATATYPES, NAMES
from stackserve.runtimes.model_file import read_options
from stackserve.runtimes.saved_models import check_saved_model

PROGRAM = "saved_model.pb"
VARIABLES, CONSTANTS = 1.4, 5.0
"""Bytes of memory at the height of loading, per byte of variables/ and of saved_model.pb with its constants:
benchmarked for 64 to 512 MB as the growth of VmHWM, which was 1.24 and 4.3 times the files.
"""
LEAST = 32 << 20
"""Bytes of a model without weights to speak of: its functions, traced."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a member whose runtime is `tensorflow`."""

    signature: str = "serving_default"


class TensorflowRuntime(Runtime):
    """Loads the SavedModels of TensorFlow 2 whose operations stay inside the process."""

    def estimate(self, files: ModelFiles) -> int:
        read_options(files, Options)
        constants = len(program(files.folder))
        size = sum(path.stat().st_size for path in files.folder.rglob("*") if path.is_file())
        return LEAST + int(VARIABLES * (size - constants) + CONSTANTS * constants)

    def load(self, files: ModelFiles) -> Model:
        options = read_options(files, Options)
        content = program(files.folder)
        use_threads(files.threads)
        if files.allow_unsafe:
            return signature_model(read(files.folder, files.folder.name), options, files)
        check_saved_model(content, files.folder.name)
        # What is read is what was checked, even if the file changes meanwhile.
        with tempfile.TemporaryDirectory(prefix="stackserve-saved-model-") as scratch:
            copy = Path(scratch)
            (copy / PROGRAM).write_bytes(content)
            for part in ("variables", "assets"):
                if (files.folder / part).is_dir():
                    (copy / part).symlink_to((files.folder / part).resolve())
            return signature_model(read(copy, files.folder.name), options, files)


class SignatureModel(Model):
    """A signature, and the variables that it would forget without the object it came with."""

    def __init__(
        self, metadata: Metadata, root: Any, function: Any, dtypes: dict[str, Any]
    ) -> None:
        self.metadata = metadata
        self.root = root
        self.function = function
        self.dtypes = dtypes

    def infer(self, inputs: Tensors, wanted: Collection[str]) -> Tensors:
        given = {
            name: tensorflow.cast(tensorflow.constant(inputs[name]), dtype)
            if dtype == tensorflow.bfloat16
            else tensorflow.constant(inputs[name], dtype)
            for name, dtype in self.dtypes.items()
        }
        try:
            results = self.function(**given)
        except (tensorflow.errors.InvalidArgumentError, ValueError, TypeError) as error:
            raise BadInput(f"the model cannot compute this: {first_line(error)[:200]}") from error
        return {
            spec.name: results[spec.name].numpy().astype(DATATYPES[spec.datatype], copy=False)
            for spec in self.metadata.outputs
            if spec.name in wanted
        }


def program(folder: Path) -> bytes:
    """Raises ModelRefused."""
    try:
        return (folder / PROGRAM).read_bytes()
    except OSError as error:
        raise ModelRefused(
            "format_unknown",
            f"{folder.name} holds no {PROGRAM}; save the model with tf.saved_model.save",
        ) from error


def use_threads(count: int) -> None:
    """Set as long as TensorFlow lets us: before its first operation."""
    threading = tensorflow.config.threading
    if threading.get_intra_op_parallelism_threads() == count:
        return
    with contextlib.suppress(RuntimeError):
        threading.set_intra_op_parallelism_threads(count)
        threading.set_inter_op_parallelism_threads(1)


def read(folder: Path, name: str) -> Any:
    """Raises ModelRefused."""
    try:
        return tensorflow.saved_model.load(str(folder))
    except Exception as error:  # TensorFlow raises what it likes for damaged files
        raise ModelRefused(
            "model_unreadable",
            f"TensorFlow {tensorflow.__version__} cannot read {name} ({first_line(error)[:200]}); save the "
            "model again with tf.saved_model.save",
        ) from error


def signature_model(root: Any, options: Options, files: ModelFiles) -> Model:
    """Raises ModelRefused."""
    signatures = dict(getattr(root, "signatures", {}))
    function = signatures.get(options.signature)
    if function is None:
        known = ", ".join(sorted(signatures)) or "none"
        raise ModelRefused(
            "signature_missing",
            f"{files.folder.name} has no signature {options.signature!r}, but {known}; name one in the "
            "option signature, or save the model with signatures=",
        )
    given = function.structured_input_signature[1]
    inputs = tuple(spec_of(name, given[name], files.folder.name) for name in sorted(given))
    outputs = tuple(
        spec_of(name, spec, files.folder.name)
        for name, spec in sorted(function.structured_outputs.items())
    )
    batches = all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs))
    metadata = Metadata("tensorflow_savedmodel", inputs, outputs, batches)
    return SignatureModel(
        metadata, root, function, {name: spec.dtype for name, spec in given.items()}
    )


def spec_of(name: str, spec: Any, file: str) -> TensorSpec:
    """Raises ModelRefused."""
    datatype = datatype_of(spec.dtype)
    if datatype is None or spec.shape.rank is None:
        what = f"of {spec.dtype.name}" if datatype is None else "of any rank"
        raise ModelRefused(
            "unsupported_signature",
            f"the tensor {name!r} of {file} is {what}, which the protocol does not know; save a signature "
            "with another one",
        )
    return TensorSpec(
        name, datatype, tuple(-1 if size is None else size for size in spec.shape.as_list())
    )


def datatype_of(dtype: Any) -> str | None:
    """The protocol's name of a type of TensorFlow's. numpy has no bfloat16, so it travels as FP32."""
    if dtype.name == "string":
        return "BYTES"
    if dtype.name == "bfloat16":
        return "FP32"
    return next((NAMES[known] for known in NAMES if known.name == dtype.name), None)
