"""Answers of the Open Inference Protocol, written from what a model gave."""

from __future__ import annotations

import msgspec
import numpy as np

from stackserve.runtimes.base import Metadata, Tensors, TensorSpec
from stackserve.runtimes.datatypes import DATATYPES, NAMES
from stackserve.runtimes.oip_errors import ModelFault, shown, shown_shape
from stackserve.runtimes.oip_request import InferenceRequest
from stackserve.runtimes.oip_tensors import Array, Buffer, to_binary, to_json

_encode = msgspec.json.Encoder().encode


def encode(
    name: str, version: str, request: InferenceRequest, outputs: Tensors, metadata: Metadata
) -> tuple[list[Buffer], int | None]:
    """The parts of the answer's body, and the length of its JSON where an output is binary: the header
    Inference-Header-Content-Length. Some parts are views of the outputs.

    Raises ModelFault for outputs that are not what the metadata says, and BadRequest for values that
    the way in which they were asked for cannot hold.
    """
    rows = request.rows if metadata.batches else None
    told, binary = [], []
    for wanted in request.outputs:
        spec = wanted.spec
        array = _checked(spec, outputs.get(spec.name), rows)
        if wanted.binary:
            values = to_binary(spec.name, spec.datatype, array)
            binary.append(values)
            told.append(
                b'%b,"parameters":{"binary_data_size":%d}}' % (_head(spec, array), len(values))
            )
        else:
            data = to_json(spec.name, spec.datatype, array)
            told.append(b'%b,"data":%b}' % (_head(spec, array), data))
    text = b'{"model_name":%b,"model_version":%b%b,"outputs":[%b]}' % (
        _encode(name),
        _encode(version),
        b"" if request.id is None else b',"id":' + _encode(request.id),
        b",".join(told),
    )
    return [text, *binary], len(text) if binary else None


def _head(spec: TensorSpec, array: Array) -> bytes:
    """An output's JSON up to its values."""
    return b'{"name":%b,"datatype":%b,"shape":%b' % (
        _encode(spec.name),
        _encode(spec.datatype),
        _encode(array.shape),
    )


def _checked(spec: TensorSpec, array: Array | None, rows: int | None) -> Array:
    """What the metadata says it is. With `rows`, its first dimension must be that."""
    if not isinstance(array, np.ndarray):
        raise ModelFault(f"The model gave no output {shown(spec.name)}.")
    if array.dtype != DATATYPES[spec.datatype]:
        given = NAMES.get(array.dtype, array.dtype)
        raise ModelFault(
            f"The model gave an output {shown(spec.name)} of {given}; its metadata says {spec.datatype}."
        )
    shape = array.shape
    if len(shape) != len(spec.shape) or any(
        size != wanted and wanted != -1 for size, wanted in zip(shape, spec.shape, strict=True)
    ):
        raise ModelFault(
            f"The model gave an output {shown(spec.name)} of the shape {shown_shape(shape)}; its metadata "
            f"says {shown_shape(spec.shape)}."
        )
    if rows is not None and shape and shape[0] != rows:
        raise ModelFault(
            f"The model gave an output {shown(spec.name)} of {shape[0]} rows for {rows} of the input."
        )
    return array
