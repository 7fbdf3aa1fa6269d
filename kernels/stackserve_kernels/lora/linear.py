"""A base layer on AMX, in one pass with the adapters of its rows."""

from __future__ import annotations

import numpy as np
import torch

from stackserve_kernels.lora.cpu import CpuLayer
from stackserve_kernels.lora.library import InstructionSet, cpu_library
from stackserve_kernels.lora.memory import WeightMemory
from stackserve_kernels.lora.packing import LANES, TILE_GROUPS, pack_matrix
from stackserve_kernels.lora.plan import BatchPlan

TILE_K = 2 * TILE_GROUPS


class AmxLinear:
    """y = x Wᵀ + bias in bf16, each row summed in one order however many there are.

    Keeps its own copy of the weights, in tiles. `serves` says for which layers there is one.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, memory: WeightMemory
    ) -> None:
        library = cpu_library()
        if library is None or not AmxLinear.serves(*weight.shape, weight.dtype):
            raise ValueError(f"no AMX product for a weight {list(weight.shape)} of {weight.dtype}")
        self.out_features, self.in_features = (int(size) for size in weight.shape)
        self._linear = library.linear
        self._weight = pack_matrix(weight, memory)
        self._bias = None if bias is None else bias.float().contiguous()
        addresses = (self._weight.data_ptr(), 0 if self._bias is None else self._bias.data_ptr())
        self._fields = np.array([self.in_features, self.out_features, *addresses], dtype=np.uint64)
        self._address = self._fields.ctypes.data

    @staticmethod
    def serves(out_features: int, in_features: int, dtype: torch.dtype) -> bool:
        """bf16, of whole tiles, on a CPU with AMX."""
        library = cpu_library()
        whole = out_features % LANES == 0 and in_features % TILE_K == 0
        amx = library is not None and library.best >= InstructionSet.AMX
        return amx and whole and dtype == torch.bfloat16

    def multiply(
        self,
        x: torch.Tensor,
        adapters: CpuLayer | None = None,
        plan: BatchPlan | None = None,
    ) -> torch.Tensor:
        """[rows, in] → [rows, out], with the adapters of the plan's rows added."""
        y = x.new_empty(len(x), self.out_features)
        layer = plan_address = None
        if adapters is not None and plan is not None and not plan.is_empty:
            layer, plan_address = adapters.address, plan.address
        self._linear(
            self._address,
            layer,
            plan_address,
            y.data_ptr(),
            self.out_features * 2,
            x.data_ptr(),
            x.stride(0) * 2,
            len(x),
        )
        return y
