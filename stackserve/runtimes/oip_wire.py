"""An inference request's JSON, before it is compared with any model."""

from __future__ import annotations

import msgspec

from stackserve.runtimes.oip_errors import BadRequest, shown
from stackserve.runtimes.oip_tensors import Buffer

Scalar = str | int | float | bool | None
Parameters = dict[str, Scalar]

NO_DATA = msgspec.Raw(b"")
"""What an input without `data` has there."""


class WireInput(msgspec.Struct, gc=False):
    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: Parameters | None = None
    data: msgspec.Raw = NO_DATA


class WireOutput(msgspec.Struct, gc=False):
    name: str
    parameters: Parameters | None = None


class WireRequest(msgspec.Struct, gc=False):
    inputs: list[WireInput]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[WireOutput] | None = None


_parse = msgspec.json.Decoder(WireRequest).decode


def parsed(text: Buffer) -> WireRequest:
    """The request; unknown fields are passed over, as Triton does. Raises BadRequest."""
    try:
        return _parse(text)
    except RecursionError as error:
        raise BadRequest("The JSON is nested too deeply; send data as flat lists.") from error
    except UnicodeDecodeError as error:
        raise BadRequest("The JSON is not UTF-8; send other bytes as binary data.") from error
    except msgspec.ValidationError as error:
        raise BadRequest(f"The request is not an inference request: {error}.") from error
    except msgspec.DecodeError as error:
        if not len(text):
            raise BadRequest("The body is empty; send an inference request as JSON.") from error
        remedy = "write it again; NaN and Infinity are not JSON, and need binary data"
        raise BadRequest(f"The body is not JSON ({error}); {remedy}.") from error


def announced_bytes(name: str, parameters: Parameters) -> int | None:
    """The bytes that an input announces; None for one in JSON."""
    refuse_shared_memory(f"Input {shown(name)}", parameters)
    size = parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise BadRequest(
            f"Input {shown(name)} has the binary_data_size {shown(size)}; let it be the number of its bytes."
        )
    return size


def refuse_shared_memory(whose: str, parameters: Parameters) -> None:
    """`whose` begins the sentence of the BadRequest."""
    if any(name.startswith("shared_memory_") for name in parameters):
        raise BadRequest(
            f"{whose} is in shared memory, which is not supported; send it in the body."
        )


def flag(whose: str, parameters: Parameters, name: str, default: bool) -> bool:
    """A parameter that is true or false; `whose` begins the sentence of the BadRequest."""
    value = parameters.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadRequest(f"{whose} has the {name} {shown(value)}; let it be true or false.")
    return value
