"""The compiled LoRA op for CPUs: a layer's slots as the C++ kernels read them (`csrc/lora.h`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stackserve_kernels.lora.grouped import GroupedLayer
from stackserve_kernels.lora.library import InstructionSet, cpu_library
from stackserve_kernels.lora.memory import WeightMemory
from stackserve_kernels.lora.packing import PackedLayer, pack_layer
from stackserve_kernels.lora.plan import BatchPlan
from stackserve_kernels.lora.weights import LayerWeights, LoraLayer, check_weights

MOST_RANK = 512

SLICE = np.dtype(
    [("a", "u8"), ("b", "u8"), ("rank", "i4"), ("groups", "i4"), ("scale", "f4"), ("unused", "i4")]
)
"""`SliceWeights` of csrc/lora.h."""


@dataclass(frozen=True, eq=False)
class PreparedCpu:
    """A layer's packed weights and what its table says of them: `SLICE`, one for each slice."""

    packed: PackedLayer
    entries: np.ndarray

    @property
    def num_bytes(self) -> int:
        return int(self.packed.data.nbytes)


class CpuLayer:
    """A `LoraLayer` on the compiled kernels, for bf16 or fp32 weights and rows alike.

    Raises ValueError when the kernels have nothing for such a layer; `make_layer` asks first.
    """

    def __init__(
        self,
        in_features: int,
        out_features: Sequence[int],
        slots: int,
        dtype: torch.dtype,
        instruction_set: InstructionSet | None = None,
    ) -> None:
        library = cpu_library()
        best = instruction_set if instruction_set is not None else InstructionSet.AMX
        kernels = library and library.kernels(best, dtype, in_features)
        if library is None or not kernels:
            raise ValueError(f"no compiled kernels for {in_features} features of {dtype}")
        self.in_features = in_features
        self.out_features = tuple(out_features)
        self.dtype = dtype
        self._add = library.add
        self._packed: dict[int, PackedLayer] = {}
        self._out = np.array(self.out_features, dtype=np.int64)
        self._table = np.zeros((slots, len(self.out_features)), dtype=SLICE)
        fields = (in_features, len(self.out_features), self._out.ctypes.data)
        self._layer = np.array([*fields, self._table.ctypes.data, kernels], dtype=np.uint64)
        self.address = self._layer.ctypes.data

    @property
    def is_empty(self) -> bool:
        return not self._packed

    def prepare(self, weights: LayerWeights, memory: WeightMemory | None = None) -> PreparedCpu:
        """See `LoraLayer.prepare`. Memory: the adapter's own rank, as `packing` lays it out."""
        slices = check_weights(weights, self.in_features, self.out_features)
        largest = max((each.rank for each in slices if each is not None), default=0)
        if largest > MOST_RANK:
            raise ValueError(f"rank {largest} is above {MOST_RANK}")
        packed = pack_layer(slices, self.dtype, memory)
        base = packed.data.data_ptr()
        entries = np.zeros(len(slices), dtype=SLICE)
        for number, each in enumerate(packed.slices):
            if each is not None:
                addresses = base + each.a_offset, base + each.b_offset
                entries[number] = (*addresses, each.rank, each.groups, weights.scale, 0)
        return PreparedCpu(packed, entries)

    def place(self, slot: int, prepared: PreparedCpu) -> None:
        """See `LoraLayer.place`. Copies no weights: host memory is where they are computed with."""
        self._table[slot] = prepared.entries
        self._packed[slot] = prepared.packed

    def load(self, slot: int, weights: LayerWeights, memory: WeightMemory | None = None) -> None:
        """See `LoraLayer.load`."""
        self.place(slot, self.prepare(weights, memory))

    def unload(self, slot: int) -> None:
        self._table[slot] = 0
        self._packed.pop(slot, None)

    def add(self, y: torch.Tensor, x: torch.Tensor, plan: BatchPlan) -> None:
        """See `LoraLayer.add`. The last dimension of x and y must be contiguous."""
        if plan.is_empty or not self._packed:
            return
        if y.dtype != self.dtype or x.dtype != self.dtype:
            raise TypeError(f"rows of {x.dtype} and {y.dtype} for a layer of {self.dtype}")
        size = y.element_size()
        self._add(
            self.address,
            y.data_ptr(),
            y.stride(0) * size,
            x.data_ptr(),
            x.stride(0) * size,
            plan.address,
        )


def make_layer(
    in_features: int, out_features: Sequence[int], slots: int, dtype: torch.dtype
) -> LoraLayer:
    """The fastest layer for these sizes on this machine's CPU: compiled, else in torch."""
    library = cpu_library()
    if library is None or not library.kernels(library.best, dtype, in_features):
        return GroupedLayer(in_features, out_features, slots)
    return CpuLayer(in_features, out_features, slots, dtype)
