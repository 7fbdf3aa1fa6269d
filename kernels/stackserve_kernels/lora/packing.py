"""Weights in the order in which the CPU kernels read them: forward, once, nothing padded but ends.

Elements lie in groups of P (two bf16, one fp32), which one instruction multiplies at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stackserve_kernels.lora.memory import WeightMemory
from stackserve_kernels.lora.weights import SliceWeights

LANES = 16
"""Ranks of a block of A, and outputs of a block of B."""
TILE_GROUPS = 16
"""Above this many, groups of B are filled up to whole tiles of AMX."""
GROUP = {torch.bfloat16: 2, torch.float32: 1}
READ_PAST = 64
"""Kernels load whole vectors, and so up to this many bytes after the last weight."""


@dataclass(frozen=True)
class PackedSlice:
    """Where a slice lies in its layer's tensor, in bytes. `groups` of P hold its rank in B."""

    rank: int
    groups: int
    a_offset: int
    b_offset: int


@dataclass(frozen=True, eq=False)
class PackedLayer:
    """One adapter's weights for a layer in one flat tensor: A of every slice, then B of every slice.

    A: blocks of up to 16 ranks, each [in / P][ranks of the block][P].
    B: blocks of 16 outputs, each [groups][16][P], zero where rank or outputs end.
    """

    data: torch.Tensor
    slices: tuple[PackedSlice | None, ...]


def pack_layer(
    slices: Sequence[SliceWeights | None], dtype: torch.dtype, memory: WeightMemory | None
) -> PackedLayer:
    """Pack slices that are there and have a rank; `in` must be a multiple of P. None: torch's memory."""
    p, item = GROUP[dtype], dtype.itemsize
    present = [each if each is not None and each.rank else None for each in slices]
    a_sizes = [each.a.numel() if each else 0 for each in present]
    b_sizes = [_b_size(each, p) if each else 0 for each in present]
    size = sum(a_sizes) + sum(b_sizes) + READ_PAST // item
    data = memory.take(size, dtype) if memory is not None else torch.zeros(size, dtype=dtype)
    a_at, b_at = 0, sum(a_sizes)
    packed: list[PackedSlice | None] = []
    for each, a_size, b_size in zip(present, a_sizes, b_sizes, strict=True):
        if each is None:
            packed.append(None)
            continue
        _pack_a(each.a.to(dtype), data[a_at:][:a_size], p)
        _pack_b(each.b.to(dtype), data[b_at:][:b_size], p)
        groups = num_groups(each.rank, p)
        packed.append(PackedSlice(each.rank, groups, a_at * item, b_at * item))
        a_at, b_at = a_at + a_size, b_at + b_size
    return PackedLayer(data, tuple(packed))


def pack_matrix(weight: torch.Tensor, memory: WeightMemory) -> torch.Tensor:
    """Pack a base layer's weight [out, in] in bf16 as B: whole tiles of 16 outputs by 32 inputs."""
    data = memory.take(weight.numel(), weight.dtype)
    _pack_b(weight, data, GROUP[weight.dtype])
    return data


def num_groups(rank: int, p: int) -> int:
    """Groups of B: those of the rank, filled up to whole tiles where pairs need more than one."""
    groups = math.ceil(rank / p)
    if p == 1 or groups <= TILE_GROUPS:
        return groups
    return math.ceil(groups / TILE_GROUPS) * TILE_GROUPS


def _b_size(each: SliceWeights, p: int) -> int:
    blocks = math.ceil(int(each.b.shape[0]) / LANES)
    return blocks * num_groups(each.rank, p) * LANES * p


def _pack_a(a: torch.Tensor, target: torch.Tensor, p: int) -> None:
    in_features = a.shape[1]
    for block in a.split(LANES):
        part, target = target[: block.numel()], target[block.numel() :]
        groups = block.reshape(len(block), in_features // p, p)
        part.view(in_features // p, len(block), p).copy_(groups.transpose(0, 1))


def _pack_b(b: torch.Tensor, target: torch.Tensor, p: int) -> None:
    out, rank = b.shape
    groups = len(target) // (math.ceil(out / LANES) * LANES * p)
    filled = b.new_zeros(math.ceil(out / LANES) * LANES, groups * p)
    filled[:out, :rank] = b
    blocks = filled.view(-1, LANES, groups, p)
    target.view(-1, groups, LANES, p).copy_(blocks.transpose(1, 2))
