"""What the LoRA ops mean, row by row in float64. Nothing here is fast, and nothing may be faster."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def add_lora_reference(
    y: torch.Tensor,
    x: torch.Tensor,
    lora_a: Sequence[torch.Tensor],
    lora_b: Sequence[torch.Tensor],
    scale: float,
    slots: Sequence[int],
) -> torch.Tensor:
    """y[i, slice] + scale · B[slot_i] (A[slot_i] x[i]) for every row i, unchanged where slot_i < 0.

    Shapes: y [rows, sum of out], x [rows, in], lora_a[s] [slots, rank, in], lora_b[s] [slots, out, rank].
    Returns a new tensor of y's dtype; each row is rounded to it once.
    """
    result = y.clone()
    for row, slot in enumerate(slots):
        if slot < 0:
            continue
        offset = 0
        for a, b in zip(lora_a, lora_b, strict=True):
            out = b.shape[-2]
            delta = b[slot].double() @ (a[slot].double() @ x[row].double())
            target = result[row, offset : offset + out]
            target.copy_(target.double() + scale * delta)
            offset += out
    return result
