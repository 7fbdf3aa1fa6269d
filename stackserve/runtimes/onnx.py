"""ONNX models, with onnxruntime on the CPU.

An ONNX file holds no code; custom operators, which would come from a library beside it, are never
registered, and tensors kept in other files must lie in the model's own folder (`onnx_external.py`).
Options: `file`, which of several .onnx files; `batches`, whether rows of several requests may be computed
together, where that cannot be told from the shapes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

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
from stackserve.runtimes.datatypes import objects
from stackserve.runtimes.model_file import find_file, read_options
from stackserve.runtimes.onnx_external import external_files

BY_TYPE = {
    "bool": "BOOL", "string": "BYTES", "float16": "FP16", "float": "FP32", "double": "FP64",
    **{f"{sign}int{bits}": f"{sign}INT{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip
"""The protocol's datatypes by onnxruntime's names."""

MEMORY = 2.2
"""Bytes at the height of loading, per byte of the files: 2.0 was measured for 64 MiB of MatMul weights,
which onnxruntime copies into another order. `python -m tests.runtimes.test_estimates` measures again.
"""
LEAST = 256 << 10
"""Bytes of a model without weights to speak of; 110 KiB were measured."""

ORT_FORMAT = b"ORTM"
"""The bytes 4 to 8 of a file in onnxruntime's own format."""


class OnnxOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a member."""

    file: str | None = None
    batches: bool | None = None


class OnnxModel(Model):
    """A session. Any number of threads may run it at once."""

    def __init__(self, session: Any, metadata: Metadata) -> None:
        self._session = session
        self.metadata = metadata
        self._texts = [spec.name for spec in metadata.inputs if spec.datatype == "BYTES"]

    def infer(self, inputs: Tensors, wanted: Collection[str]) -> Tensors:
        names = list(wanted)
        if self._texts:
            inputs = inputs | {name: _decoded(name, inputs[name]) for name in self._texts}
        try:
            results = self._session.run(names, inputs)
        except InvalidArgument as error:
            raise BadInput(f"onnxruntime refuses the inputs: {first_line(error)}") from error
        return {
            name: _encoded(result) if result.dtype == object else result
            for name, result in zip(names, results, strict=True)
        }


class OnnxRuntime(Runtime):
    """Loads .onnx files."""

    def estimate(self, files: ModelFiles) -> int:
        path = model_file(files, read_options(files, OnnxOptions))
        paths = {path, *external_files(path)}
        return LEAST + int(MEMORY * sum(path.stat().st_size for path in paths))

    def load(self, files: ModelFiles) -> Model:
        options = read_options(files, OnnxOptions)
        path = model_file(files, options)
        external_files(path)
        with path.open("rb") as file:
            if file.read(8)[4:] == ORT_FORMAT:
                raise ModelRefused(
                    "format_unknown",
                    f"{path.name} is in onnxruntime's own format; save it as ONNX",
                )
        try:
            session = onnxruntime.InferenceSession(
                str(path), session_options(files.threads), providers=["CPUExecutionProvider"]
            )
        except MemoryError:
            raise
        except Exception as error:  # onnxruntime's errors have no common base
            raise ModelRefused(
                "invalid_model",
                f"{path.name} is not loaded by onnxruntime {onnxruntime.__version__} "
                f"({first_line(error)}); export it again, with operators that it has",
            ) from error
        inputs = tuple(_spec(path.name, argument) for argument in session.get_inputs())
        outputs = tuple(_spec(path.name, argument) for argument in session.get_outputs())
        batches = counts_rows(
            [one.shape for one in (*session.get_inputs(), *session.get_outputs())]
        )
        if options.batches is not None:
            batches = options.batches
        return OnnxModel(session, Metadata("onnx_onnxruntime", inputs, outputs, batches))


def model_file(files: ModelFiles, options: OnnxOptions) -> Path:
    """Raises ModelRefused."""
    return find_file(files, {".onnx"}, usual="model.onnx", chosen=options.file)


def session_options(threads: int) -> Any:
    """Without an arena: it made a hundred small models 17.6 instead of 11.3 MiB, and none faster."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    # A thread that spins takes the core from the models beside it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


def counts_rows(shapes: Sequence[Sequence[int | str | None]]) -> bool:
    """Whether the first dimension of every tensor can be the number of rows: any size, and nowhere of
    another name. Whether the rows depend on each other cannot be told from shapes.
    """
    firsts = [shape[0] if shape else 1 for shape in shapes]
    names = {first for first in firsts if isinstance(first, str)}
    return len(names) <= 1 and not any(isinstance(first, int) for first in firsts)


def _spec(file: str, argument: Any) -> TensorSpec:
    """`argument.type` is such as `tensor(float)` or `seq(map(int64,tensor(float)))`."""
    kind = argument.type
    if not kind.startswith("tensor("):
        raise ModelRefused(
            "unsupported_output",
            f"{file} has {argument.name}, a {kind}, where the protocol knows tensors alone; of a "
            "classifier from scikit-learn, export with options={'zipmap': False}",
        )
    datatype = BY_TYPE.get(kind.removeprefix("tensor(").removesuffix(")"))
    if datatype is None:
        raise ModelRefused(
            "unsupported_datatype",
            f"{file} has {argument.name}, a {kind}, which is not served; export with FP32 or FP16 there",
        )
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in argument.shape)
    return TensorSpec(argument.name, datatype, shape)


def _decoded(name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Text from bytes, as onnxruntime takes it."""
    try:
        return objects([value.decode() for value in values.flat]).reshape(values.shape)
    except UnicodeDecodeError as error:
        raise BadInput(f"input {name} holds bytes that are no UTF-8 text") from error


def _encoded(texts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return objects([text.encode() for text in texts.flat]).reshape(texts.shape)
