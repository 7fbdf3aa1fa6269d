"""The numbers in the tensors: finite, and too small to overflow the engine."""

from __future__ import annotations

import os
import struct
from typing import NoReturn

from stackserve.adapters.codes import Code
from stackserve.adapters.folder import CHUNK_BYTES, WEIGHTS_FILE, reading
from stackserve.adapters.safetensors_file import TensorInfo
from stackserve.errors import ArtifactRejected

# The largest fp16 value. An engine may run in fp16 or bf16 whatever the adapter's own dtype is,
# and below this bound neither the weights nor base + delta overflow in either of them.
LARGEST_VALUE = 65504.0

# Integer view of a dtype, mask that clears the sign, and bits of infinity: above it is NaN.
# With the sign cleared, the order of the bits is the order of the magnitudes.
FORMATS = {
    "BF16": ("<u2", 0x7FFF, 0x7F80),
    "F16": ("<u2", 0x7FFF, 0x7C00),
    "F32": ("<u4", 0x7FFFFFFF, 0x7F800000),
}


def largest_magnitude(fd: int, tensor: TensorInfo) -> float:
    """The largest magnitude in a tensor; NaN, infinity and values over 65504 are refused.

    Reads in chunks. Not through a memory map: a file cut short under a map kills the process.
    """
    bits = _largest_bits(fd, tensor)
    infinity = FORMATS[tensor.dtype][2]
    if bits > infinity:
        _refuse(Code.VALUE_NAN, tensor, "NaN")
    if bits == infinity:
        _refuse(Code.VALUE_INFINITE, tensor, "an infinite value")
    magnitude = _to_float(bits, tensor.dtype)
    if magnitude > LARGEST_VALUE:
        _refuse(Code.VALUE_TOO_LARGE, tensor, f"the magnitude {magnitude:.4g}, over 65504")
    return magnitude


def _largest_bits(fd: int, tensor: TensorInfo) -> int:
    import numpy as np  # here and not above: it would slow every start of the gateway

    view, mask, _ = FORMATS[tensor.dtype]
    largest = 0
    with reading(WEIGHTS_FILE):
        for start in range(tensor.start, tensor.end, CHUNK_BYTES):
            size = min(CHUNK_BYTES, tensor.end - start)
            chunk = os.pread(fd, size, start)
            if len(chunk) != size:
                raise ArtifactRejected(
                    Code.WEIGHTS_INVALID,
                    f"{WEIGHTS_FILE} ends inside {tensor.name}; copy it again.",
                )
            largest = max(largest, int((np.frombuffer(chunk, dtype=view) & mask).max()))
    return largest


def _to_float(bits: int, dtype: str) -> float:
    if dtype == "F16":
        return float(struct.unpack("<e", struct.pack("<H", bits))[0])
    if dtype == "BF16":
        bits <<= 16  # bf16 is the upper half of fp32
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def _refuse(code: Code, tensor: TensorInfo, what: str) -> NoReturn:
    raise ArtifactRejected(
        code, f"{tensor.name} holds {what}; train the adapter again or take an earlier checkpoint."
    )
