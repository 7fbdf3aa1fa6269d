"""What the LoRA op means, row by row. Nothing here is fast, and nothing may be faster."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stackserve_kernels.lora.weights import LayerWeights


def add_lora_reference(
    y: torch.Tensor,
    x: torch.Tensor,
    out_features: Sequence[int],
    adapters: Sequence[LayerWeights | None],
    slots: Sequence[int],
    precision: torch.dtype = torch.float32,
) -> torch.Tensor:
    """y[i, slice] + scale · B (A x[i]) with the weights of slot_i, for every row i.

    y [rows, sum of out], x [rows, in]; `adapters[slot]`. A row with slot_i < 0, a slot without weights
    and a slice without weights keep their bits. Returns a new tensor of y's dtype, rounded once.
    """
    result = y.clone()
    for row, slot in enumerate(slots):
        weights = adapters[slot] if slot >= 0 else None
        if weights is None:
            continue
        first = 0
        for out, each in zip(out_features, weights.slices, strict=True):
            if each is not None:
                delta = each.b.to(precision) @ (each.a.to(precision) @ x[row].to(precision))
                target = result[row, first : first + out]
                target.copy_(target.to(precision) + weights.scale * delta)
            first += out
    return result
