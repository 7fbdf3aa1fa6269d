"""Base layers on CPUs whose answer for a row is the same bits in every batch: a layer's `cpu_linear`.

vLLM calls them as `cpu_linear(x, weight, bias)`. They keep their weight themselves. A compiled graph sees
the operator `stackserve::linear` in their place, so that the number of rows is looked at in each call.
"""

from __future__ import annotations

from typing import Any

import torch

from stackserve.engine import operators
from stackserve_kernels.lora import AmxLinear, BatchPlan, CpuLayer, WeightMemory


class BaseLinear:
    """[..., in] → [..., out_features]."""

    def __init__(self, out_features: int) -> None:
        self.out_features = out_features
        self.number = operators.register(self)

    def __call__(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if torch.compiler.is_compiling():
            return operators.linear(x, bias, self.number)
        return self.compute(x, bias)

    def compute(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        raise NotImplementedError


class AmxProduct(BaseLinear):
    """On our own product, which can add the adapters of the rows in the same pass."""

    def __init__(self, weight: torch.Tensor, memory: WeightMemory) -> None:
        super().__init__(weight.shape[0])
        self.product = AmxLinear(weight, memory)

    def compute(
        self,
        x: torch.Tensor,
        bias: torch.Tensor | None,
        adapters: CpuLayer | None = None,
        plan: BatchPlan | None = None,
    ) -> torch.Tensor:
        rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
        y = self.product.multiply(rows, bias, adapters, plan)
        return y if x.dim() == 2 else y.view(*x.shape[:-1], self.out_features)


class FilledRows(BaseLinear):
    """On vLLM's product, never called with fewer than `rows` rows, from which on it keeps one order."""

    def __init__(self, layer: Any, out_features: int, rows: int) -> None:
        super().__init__(out_features)
        self.inside = layer.cpu_linear
        self.weight = layer.weight
        self.rows = rows

    def compute(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        count = x.numel() // x.shape[-1]
        if count >= self.rows or count == 0:
            y: torch.Tensor = self.inside(x, self.weight, bias)
            return y
        filled = x.new_zeros(self.rows, x.shape[-1])
        filled[:count] = x.reshape(count, -1)
        y = self.inside(filled, self.weight, bias)[:count]
        return y.reshape(*x.shape[:-1], self.out_features)
