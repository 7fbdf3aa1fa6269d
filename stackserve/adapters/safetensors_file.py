"""The header of a .safetensors file, read strictly and without touching the tensors' bytes."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TypeGuard

from stackserve.adapters.codes import Code
from stackserve.adapters.folder import reading
from stackserve.adapters.strict_json import parse_object, shown
from stackserve.errors import ArtifactRejected

# The format allows 100 MB. 16 MiB describes some 100,000 tensors, and bounds what parsing costs.
MAX_HEADER_BYTES = 16 << 20
MAX_NAME_LENGTH = 512
MAX_DIMENSIONS = 8
LENGTH_BYTES = 8

DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "BOOL": 8, "U8": 8, "I8": 8,
    "F16": 16, "BF16": 16, "U16": 16, "I16": 16, "F32": 32, "U32": 32, "I32": 32,
    "F64": 64, "U64": 64, "I64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of the file; its bytes are [start, end), counted from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_header(
    fd: int, *, name: str, code: Code, max_header: int = MAX_HEADER_BYTES
) -> tuple[TensorInfo, ...]:
    """The tensors of an open .safetensors file, in the order of their bytes.

    Every defect of the header raises ArtifactRejected with `code`; `name` is the file's name in
    the message. The tensors fill the file exactly: no gap, no overlap, no byte left over.
    """
    with reading(name, code):
        size = os.fstat(fd).st_size
        prefix = os.pread(fd, 2 * LENGTH_BYTES, 0)
        if len(prefix) < LENGTH_BYTES:
            raise _bad(code, name, f"has {size} bytes, too few for a safetensors header")
        length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
        if _looks_pickled(prefix) and code is Code.WEIGHTS_INVALID:
            raise ArtifactRejected(
                Code.PICKLE_WEIGHTS,
                f"{name} is a pickle or a zip under a safetensors name; "
                "save the adapter with `safe_serialization=True`.",
            )
        _check_length(length, min(size - LENGTH_BYTES, max_header), name, code)
        header = os.pread(fd, length, LENGTH_BYTES)
    if len(header) != length or not header.startswith(b"{"):
        raise _bad(code, name, "has no JSON object where its header should be")
    entries = parse_object(header, name=f"The header of {name}", code=code)
    _check_metadata(entries.pop("__metadata__", {}), name, code)
    data_start = LENGTH_BYTES + length
    tensors = [_tensor(key, entry, data_start, name, code) for key, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    _check_layout(tensors, data_start, size, name, code)
    return tuple(tensors)


def _bad(code: Code, name: str, what: str) -> ArtifactRejected:
    return ArtifactRejected(code, f"{name} {what}; save or copy it again.")


def _looks_pickled(prefix: bytes) -> bool:
    """Magic of a zip (torch.save) or of a binary pickle, which no bounded header length matches."""
    magic = prefix.startswith(b"PK\x03\x04") or (prefix[0] == 0x80 and 2 <= prefix[1] <= 5)
    return magic and prefix[4:LENGTH_BYTES] != bytes(4)


def _check_length(length: int, most: int, name: str, code: Code) -> None:
    if not 2 <= length <= most:
        what = f"claims a header of {length} bytes where 2 to {most} are possible"
        raise _bad(code, name, f"{what}, so it is truncated or no safetensors file")


def _check_metadata(metadata: object, name: str, code: Code) -> None:
    if not isinstance(metadata, dict) or any(not isinstance(v, str) for v in metadata.values()):
        raise _bad(code, name, f"has __metadata__ {shown(metadata)} instead of a map of strings")


def _tensor(key: str, entry: object, data_start: int, name: str, code: Code) -> TensorInfo:
    if not key or len(key) > MAX_NAME_LENGTH or not key.isprintable():
        raise _bad(code, name, f"has a tensor with the unusable name {shown(key)}")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        what = f"describes {shown(key)} with {shown(entry)} instead of dtype, shape, data_offsets"
        raise _bad(code, name, what)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    bits = DTYPE_BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise _bad(code, name, f"gives {shown(key)} the unknown dtype {shown(dtype)}")
    if not _is_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise _bad(code, name, f"gives {shown(key)} the shape {shown(shape)}, which is none")
    if not _is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _bad(code, name, f"gives {shown(key)} the offsets {shown(offsets)}, which are none")
    begin, end = offsets
    if math.prod(shape) * bits != 8 * (end - begin):
        what = (
            f"gives {shown(key)} {end - begin} bytes, which do not fit {dtype} of shape"
            f" {shown(shape)}"
        )
        raise _bad(code, name, what)
    return TensorInfo(key, dtype, tuple(shape), data_start + begin, data_start + end)


def _is_sizes(value: object) -> TypeGuard[list[int]]:
    """A list of integers in [0, 2**63); `type` and not isinstance, because True is an int."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


def _check_layout(
    tensors: list[TensorInfo], data_start: int, size: int, name: str, code: Code
) -> None:
    position = data_start
    for tensor in tensors:
        if tensor.start != position:
            kind = "overlaps" if tensor.start < position else "leaves a gap after"
            what = f"has {shown(tensor.name)} at byte {tensor.start}, which {kind} the one before"
            raise _bad(code, name, what)
        position = tensor.end
    if position != size:
        kind = "truncated" if size < position else "followed by bytes of no tensor"
        raise _bad(code, name, f"has {size} bytes but describes {position}, so it is {kind}")
