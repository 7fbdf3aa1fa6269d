"""The tensors of a composite adapter: read from its parts, weighted, and written as one file.

Everything is fp32. It holds the parts' bf16 and fp16 without loss, and A times its weight with one
rounding to 24 bits; an engine in bf16 then rounds once, where a bf16 file would already have rounded
for an engine in fp32. The scale goes to A, in PEFT's order of products, so that the tensors are to the
bit those of `add_weighted_adapter(combination_type="cat")` in fp32.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stackserve.adapters.codes import Code
from stackserve.adapters.folder import WEIGHTS_FILE, reading
from stackserve.adapters.lora_modules import LoraModule
from stackserve.adapters.safetensors_file import LENGTH_BYTES, TensorInfo
from stackserve.errors import ArtifactRejected

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FP32_BYTES = 4


@dataclass(frozen=True)
class Piece:
    """What one part adds to a module: weight · scale · B·A, with A and B in the open file `fd`."""

    lora: LoraModule
    weight: float
    scale: float
    fd: int


def rank_of(pieces: tuple[Piece, ...]) -> int:
    """The rank of a module of the composite."""
    return sum(piece.lora.a.shape[0] for piece in pieces)


def size_of(modules: Mapping[str, tuple[Piece, ...]]) -> int:
    """Bytes of all tensors of the composite."""
    return sum(
        FP32_BYTES * rank * (inputs + outputs)
        for pieces in modules.values()
        for rank, inputs, outputs in [_sizes(pieces)]
    )


def write_weights(path: Path, modules: Mapping[str, tuple[Piece, ...]]) -> None:
    """Write the composite's safetensors file, with one tensor in memory at a time."""
    header = _header(modules)
    with path.open("xb") as file:
        file.write(len(header).to_bytes(LENGTH_BYTES, "little") + header)
        for tensor in _tensors(modules):
            file.write(tensor.astype("<f4", copy=False).tobytes())


def _header(modules: Mapping[str, tuple[Piece, ...]]) -> bytes:
    """In the order of `_tensors`. Padded, so that each tensor begins at a multiple of its type."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for pieces in modules.values():
        rank, inputs, outputs = _sizes(pieces)
        a, b = pieces[0].lora.a, pieces[0].lora.b
        for name, shape in ((a.name, (rank, inputs)), (b.name, (outputs, rank))):
            end = position + FP32_BYTES * shape[0] * shape[1]
            entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [position, end]}
            position = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % LENGTH_BYTES)


def _tensors(modules: Mapping[str, tuple[Piece, ...]]) -> Iterator[NDArray[np.float32]]:
    """A, then B, of each module."""
    import numpy as np  # here and not above: it would slow every start of the gateway

    for pieces in modules.values():
        yield np.concatenate([_weighted_a(piece) for piece in pieces], axis=0)
        yield np.concatenate([_as_fp32(piece.fd, piece.lora.b) for piece in pieces], axis=1)


def _sizes(pieces: tuple[Piece, ...]) -> tuple[int, int, int]:
    """Rank, inputs and outputs of a module of the composite."""
    return rank_of(pieces), pieces[0].lora.a.shape[1], pieces[0].lora.b.shape[0]


def _weighted_a(piece: Piece) -> NDArray[np.float32]:
    import numpy as np

    a = _as_fp32(piece.fd, piece.lora.a)
    return a * np.float32(piece.weight) * np.float32(piece.scale)


def _as_fp32(fd: int, tensor: TensorInfo) -> NDArray[np.float32]:
    import numpy as np

    data = _read(fd, tensor)
    if tensor.dtype == "BF16":  # the upper half of fp32
        values = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    else:
        values = np.frombuffer(data, {"F16": "<f2", "F32": "<f4"}[tensor.dtype]).astype("<f4")
    return values.reshape(tensor.shape)


def _read(fd: int, tensor: TensorInfo) -> bytes:
    data = bytearray()
    with reading(WEIGHTS_FILE):
        while chunk := os.pread(
            fd, tensor.end - tensor.start - len(data), tensor.start + len(data)
        ):
            data += chunk
    if len(data) != tensor.end - tensor.start:
        raise ArtifactRejected(
            Code.WEIGHTS_INVALID, f"{WEIGHTS_FILE} ends inside {tensor.name}; copy it again."
        )
    return bytes(data)
