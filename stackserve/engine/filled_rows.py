"""Linear layers that fill a small batch up with zeros, so that its rows are summed as in a large one."""

from __future__ import annotations

from typing import Any

import torch

from stackserve.engine import operators


class FilledRows:
    """A base layer's `cpu_linear(x, weight, bias)`, never called with fewer than `rows` rows.

    The number of rows is looked at when it is called, from a compiled graph too, where the operator
    `stackserve::linear` stands for it. The layer must keep one weight, which is the one it got.
    """

    def __init__(self, layer: Any, out_features: int, rows: int) -> None:
        self.inside = layer.cpu_linear
        self.weight = layer.weight
        self.out_features = out_features
        self.rows = rows
        self.number = operators.register(self)

    def __call__(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if torch.compiler.is_compiling():
            return operators.linear(x, bias, self.number)
        return self.compute(x, bias)

    def compute(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """[..., in] → [..., out]."""
        count = x.numel() // x.shape[-1]
        if count >= self.rows or count == 0:
            y: torch.Tensor = self.inside(x, self.weight, bias)
            return y
        filled = x.new_zeros(self.rows, x.shape[-1])
        filled[:count] = x.reshape(count, -1)
        y = self.inside(filled, self.weight, bias)[:count]
        return y.reshape(*x.shape[:-1], self.out_features)
