"""The shapes of inputs, compared with those that a model takes."""

from __future__ import annotations

from stackserve.runtimes.base import TensorSpec
from stackserve.runtimes.datatypes import DATATYPES
from stackserve.runtimes.oip_errors import BadRequest, shown, shown_shape
from stackserve.runtimes.oip_tensors import Shape

MOST_ELEMENTS = 2**31
"""Of a tensor, where a dimension of zero counts as one: no body holds more."""


def checked_count(spec: TensorSpec, shape: Shape) -> int:
    """The number of elements of a shape; raises BadRequest for one that the model does not take."""
    if len(shape) != len(spec.shape):
        raise BadRequest(
            f"Input {shown(spec.name)} has the shape {shown_shape(shape)} of {len(shape)} dimensions, but "
            f"the model takes {shown_shape(spec.shape)}; reshape it."
        )
    count, bound = 1, 1
    for size, wanted in zip(shape, spec.shape, strict=True):
        if size < 0 or (size != wanted and wanted >= 0):
            raise BadRequest(
                f"Input {shown(spec.name)} has the shape {shown_shape(shape)}, but the model takes "
                f"{shown_shape(spec.shape)}, where -1 is any size; give it such a shape."
            )
        count *= size
        bound *= size or 1
    if bound > MOST_ELEMENTS:
        raise BadRequest(
            f"Input {shown(spec.name)} has the shape {shown_shape(shape)}, which is more than "
            f"{MOST_ELEMENTS} elements; send fewer."
        )
    return count


def raw_shape(spec: TensorSpec, num_bytes: int) -> tuple[Shape, int]:
    """The shape of values that come without one, and their number: one dimension can be found out."""
    if spec.shape.count(-1) > 1:
        raise BadRequest(
            f"Input {shown(spec.name)} has more than one variable dimension, {shown_shape(spec.shape)}, so "
            "its shape does not follow from its bytes; put JSON with the shape in front."
        )
    unit = DATATYPES[spec.datatype].itemsize
    for size in spec.shape:
        unit *= 1 if size == -1 else size
    rows, rest = divmod(num_bytes, unit) if unit else (0, num_bytes)
    if rest:
        remedy = f"a multiple of {unit} bytes" if unit and -1 in spec.shape else f"{unit} bytes"
        raise BadRequest(
            f"Input {shown(spec.name)} has {num_bytes} bytes, which do not fill the shape "
            f"{shown_shape(spec.shape)} of {spec.datatype}; send {remedy}."
        )
    shape = tuple(rows if size == -1 else size for size in spec.shape)
    return shape, checked_count(spec, shape)


def shape_of_one(spec: TensorSpec) -> Shape:
    """The shape of the one BYTES element that a body of values only is."""
    if any(size not in (1, -1) for size in spec.shape):
        raise BadRequest(
            f"Input {shown(spec.name)} is BYTES of the shape {shown_shape(spec.shape)}, and a body of values "
            "only is one element; put JSON with the shape in front."
        )
    return (1,) * len(spec.shape)
