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

    Keeps its own copy of the weights, in tiles. `serves` says for which weights there is one.
    """

    def __init__(self, weight: torch.Tensor, memory: WeightMemory) -> None:
        library = cpu_library()
        if library is None or not AmxLinear.serves(weight):
            raise ValueError(f"no AMX product for a weight {list(weight.shape)} of {weight.dtype}")
        self.out_features, self.in_features = (int(size) for size in weight.shape)
        self._linear = library.linear
        self._weight = pack_matrix(weight, memory)
        fields = (self.in_features, self.out_features, self._weight.data_ptr())
        self._fields = np.array(fields, dtype=np.uint64)
        self._address = self._fields.ctypes.data

    @staticmethod
    def serves(weight: torch.Tensor) -> bool:
        """[out, in] in bf16, of whole tiles, on a CPU with AMX."""
        library = cpu_library()
        if library is None or library.best < InstructionSet.AMX or weight.dtype != torch.bfloat16:
            return False
        return bool(weight.shape[0] % LANES == 0 and weight.shape[1] % TILE_K == 0)

    def takes(self, adapters: CpuLayer) -> bool:
        """Whether `multiply` can add them: each of their slices is whole blocks of this layer's outputs."""
        whole = all(out % LANES == 0 for out in adapters.out_features)
        return whole and sum(adapters.out_features) == self.out_features

    def multiply(
        self,
        x: torch.Tensor,
        bias: torch.Tensor | None = None,
        adapters: CpuLayer | None = None,
        plan: BatchPlan | None = None,
    ) -> torch.Tensor:
        """x [rows, in] → [rows, out] with bias [out], and with the adapters of the plan's rows added.

        The adapters must be such that `takes` them, which is not asked again in each call.
        """
        if x.dtype != torch.bfloat16 or x.stride(-1) != 1:
            raise TypeError(f"rows of {x.dtype} with stride {x.stride(-1)}, not dense ones of bf16")
        y = x.new_empty(len(x), self.out_features)
        bias = None if bias is None else bias.float()
        with_adapters = adapters is not None and plan is not None and not plan.is_empty
        self._linear(
            self._address,
            None if bias is None else bias.data_ptr(),
            adapters.address if adapters is not None and with_adapters else None,
            plan.address if plan is not None and with_adapters else None,
            y.data_ptr(),
            self.out_features * 2,
            x.data_ptr(),
            x.stride(0) * 2,
            len(x),
        )
        return y
