"""Inference requests of the Open Inference Protocol, read and checked against what a model takes."""

from __future__ import annotations

from collections.abc import Collection, Hashable

import msgspec

from stackserve.runtimes.base import Metadata, ModelRefused, Tensors, TensorSpec
from stackserve.runtimes.datatypes import DATATYPES
from stackserve.runtimes.oip_errors import BadRequest, shown
from stackserve.runtimes.oip_shapes import checked_count, raw_shape, shape_of_one
from stackserve.runtimes.oip_tensors import Buffer, from_binary, from_json, single
from stackserve.runtimes.oip_wire import (
    NO_DATA,
    Parameters,
    WireInput,
    WireOutput,
    announced_bytes,
    flag,
    parsed,
    refuse_shared_memory,
)

DELIVERY = frozenset({"binary_data_output", "priority", "timeout"})
"""Parameters that say how a request is answered, not with what."""


class WantedOutput(msgspec.Struct, frozen=True):
    """An output that is asked for, and how."""

    spec: TensorSpec
    binary: bool


class InferenceRequest(msgspec.Struct, frozen=True):
    """A request that fits its model. `inputs` are in the order of the metadata; they may be views of the
    body, and read-only.
    """

    id: str | None
    parameters: Parameters
    inputs: Tensors
    outputs: tuple[WantedOutput, ...]

    @property
    def rows(self) -> int:
        """The first dimension of the first input; 1 without one."""
        shape = next(iter(self.inputs.values())).shape if self.inputs else ()
        return shape[0] if shape else 1

    @property
    def wanted(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return tuple(output.spec.name for output in self.outputs)

    @property
    def signature(self) -> Hashable:
        """Equal for requests to one model that may be computed in one batch."""
        parameters = [
            (name, repr(value))  # True and 1 are equal, and hash alike
            for name, value in sorted(self.parameters.items())
            if name not in DELIVERY
        ]
        shapes = tuple(array.shape[1:] for array in self.inputs.values())
        return shapes, frozenset(self.wanted), tuple(parameters)


class Decoder:
    """Reads the requests to one model; made once, when it is loaded. Threads may share it.

    Raises ModelRefused for metadata with a datatype that cannot be served.
    """

    def __init__(self, metadata: Metadata) -> None:
        for spec in (*metadata.inputs, *metadata.outputs):
            if spec.datatype not in DATATYPES:
                raise ModelRefused(
                    "datatype_unsupported",
                    f"the tensor {shown(spec.name)} is {shown(spec.datatype)}, which cannot be served; "
                    f"give the model one of {', '.join(DATATYPES)}",
                )
        self._inputs = {spec.name: spec for spec in metadata.inputs}
        self._batches = metadata.batches
        self._all = {
            binary: tuple(WantedOutput(spec, binary) for spec in metadata.outputs)
            for binary in (False, True)
        }
        self._outputs = {spec.name: spec for spec in metadata.outputs}

    def decode(self, body: Buffer, json_bytes: int | None = None) -> InferenceRequest:
        """The request in a body that is not compressed. `json_bytes` is the header
        Inference-Header-Content-Length: None for a body that is JSON, 0 for one that is the only
        input's values. Raises BadRequest.
        """
        if json_bytes == 0:
            return self._raw(memoryview(body))
        if json_bytes is None:
            wire, binary = parsed(body), None
        elif 0 < json_bytes <= len(body):
            view = memoryview(body)
            wire, binary = parsed(view[:json_bytes]), view[json_bytes:]
        else:
            raise BadRequest(
                f"The header Inference-Header-Content-Length is {shown(json_bytes)}, but the body has "
                f"{len(body)} bytes; let it be the length of the JSON in front of the binary data."
            )
        parameters = wire.parameters or {}
        by_default = flag("The request", parameters, "binary_data_output", False)
        return InferenceRequest(
            wire.id,
            parameters,
            self._read_inputs(wire.inputs, binary),
            self._read_outputs(wire.outputs, by_default) if wire.outputs else self._all[by_default],
        )

    def _read_inputs(self, given: list[WireInput], binary: memoryview | None) -> Tensors:
        inputs: Tensors = {}
        used = 0
        for each in given:
            spec = self._inputs.get(each.name)
            if spec is None or each.name in inputs:
                raise self._stray(each.name)
            if each.datatype != spec.datatype:
                raise _wrong_datatype(spec, each.datatype)
            count = checked_count(spec, each.shape)
            size = announced_bytes(each.name, each.parameters) if each.parameters else None
            if size is None:
                if each.data is NO_DATA:
                    raise BadRequest(
                        f"Input {shown(each.name)} has no data; give it `data`, or the parameter "
                        "binary_data_size."
                    )
                inputs[each.name] = from_json(
                    each.name, spec.datatype, each.data, each.shape, count
                )
            else:
                part = _binary_part(each, binary, used, size)
                inputs[each.name] = from_binary(each.name, spec.datatype, part, each.shape, count)
                used += size
        if binary is not None and used != len(binary):
            raise BadRequest(
                f"The body has {len(binary)} bytes after its JSON, but the inputs' binary_data_size sum up "
                f"to {used}; make them agree."
            )
        return self._complete(inputs)

    def _stray(self, name: str) -> BadRequest:
        if name in self._inputs:
            return BadRequest(f"Input {shown(name)} is given twice; give it once.")
        return BadRequest(
            f"The model has no input {shown(name)}; it takes {_listed(self._inputs)}."
        )

    def _complete(self, inputs: Tensors) -> Tensors:
        """All that the model takes, in its order."""
        for name in self._inputs:
            if name not in inputs:
                raise BadRequest(
                    f"Input {shown(name)} is missing; the model takes {_listed(self._inputs)}."
                )
        if len(inputs) == 1:
            return inputs
        if self._batches:
            _check_rows(inputs)
        return {name: inputs[name] for name in self._inputs}

    def _read_outputs(self, given: list[WireOutput], by_default: bool) -> tuple[WantedOutput, ...]:
        wanted: dict[str, WantedOutput] = {}
        for each in given:
            name, binary = each.name, by_default
            spec = self._outputs.get(name)
            if spec is None:
                raise BadRequest(
                    f"The model has no output {shown(name)}; it gives {_listed(self._outputs)}."
                )
            if name in wanted:
                raise BadRequest(f"Output {shown(name)} is asked for twice; ask for it once.")
            if each.parameters:
                whose = f"Output {shown(name)}"
                refuse_shared_memory(whose, each.parameters)
                if each.parameters.get("classification"):
                    raise BadRequest(
                        f"{whose} is asked for as a classification, which is not supported; ask for its "
                        "values, and choose the largest."
                    )
                binary = flag(whose, each.parameters, "binary_data", by_default)
            wanted[name] = WantedOutput(spec, binary)
        return tuple(wanted.values())

    def _raw(self, body: memoryview) -> InferenceRequest:
        if len(self._inputs) != 1:
            raise BadRequest(
                "A body of values only (Inference-Header-Content-Length: 0) needs a model of one input, and "
                f"this one takes {_listed(self._inputs)}; put the inputs' JSON in front."
            )
        (spec,) = self._inputs.values()
        if spec.datatype == "BYTES":
            shape = shape_of_one(spec)
            inputs = {spec.name: single(body, shape)}
        else:
            shape, count = raw_shape(spec, len(body))
            inputs = {spec.name: from_binary(spec.name, spec.datatype, body, shape, count)}
        return InferenceRequest(None, {}, inputs, self._all[True])


def _wrong_datatype(spec: TensorSpec, given: str) -> BadRequest:
    if given == "BF16":
        return BadRequest(
            f"Input {shown(spec.name)} is BF16, which is not supported; send {spec.datatype}."
        )
    return BadRequest(
        f"Input {shown(spec.name)} has the datatype {shown(given)}, but the model takes {spec.datatype}; "
        "convert it."
    )


def _binary_part(each: WireInput, binary: memoryview | None, start: int, size: int) -> memoryview:
    if each.data is not NO_DATA:
        raise BadRequest(
            f"Input {shown(each.name)} has both `data` and binary_data_size; give it one of them."
        )
    if binary is None:
        raise BadRequest(
            f"Input {shown(each.name)} has a binary_data_size, but the request has no header "
            "Inference-Header-Content-Length; send the length of the JSON there."
        )
    if size > len(binary) - start:
        raise BadRequest(
            f"Input {shown(each.name)} has the binary_data_size {shown(size)}, but only "
            f"{len(binary) - start} bytes are left of the body; send all of it."
        )
    return binary[start : start + size]


def _check_rows(inputs: Tensors) -> None:
    rows = {name: array.shape[0] if array.ndim else 1 for name, array in inputs.items()}
    (one, first), *others = rows.items()
    for name, other in others:
        if other != first:
            raise BadRequest(
                f"Input {shown(one)} has {first} rows, but {shown(name)} has {other}; give all inputs the "
                "same number."
            )


def _listed(names: Collection[str]) -> str:
    """Some names out of the metadata."""
    text = ", ".join(shown(name) for name in sorted(names)[:3])
    return f"{text} and {len(names) - 3} more" if len(names) > 3 else text or "none"
