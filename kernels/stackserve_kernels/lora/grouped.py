"""LoRA in torch, grouped by adapter: one small GEMM pair for each (adapter, slice), in float64.

vLLM's own CPU path gathers a copy of the whole weight matrix for every token, and its index -1 (no
adapter) selects the last slot. Here rows without an adapter are in no segment, so nothing reads or
writes them.

Why float64: a GEMM library sums in another order for another number of rows, so in fp32 a row's last
bits depend on who shares its batch. In float64 they differ far below what bf16 and fp32 can hold.

Shapes, for S slices of a fused projection (three for q/k/v, two for gate/up, else one):
x [rows, in]; y [rows, out_1 + … + out_S]; lora_a[s] [slots, rank, in]; lora_b[s] [slots, out_s, rank].
Rows past `plan.num_rows` have no adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from stackserve_kernels.lora.plan import BatchPlan


def add_lora(
    y: torch.Tensor,
    x: torch.Tensor,
    lora_a: Sequence[torch.Tensor],
    lora_b: Sequence[torch.Tensor],
    scale: float,
    plan: BatchPlan,
) -> None:
    """y[row, slice] += scale · (x[row] Aᵀ) Bᵀ, in place. Rounds to y's dtype once."""
    for segment in plan.segments:
        rows = x[segment.rows].double()
        for a, b, columns in _slices(lora_a, lora_b):
            hidden = rows @ a[segment.slot].double().T
            delta = hidden.mul_(scale) @ b[segment.slot].double().T
            _add(y, segment.rows, columns, delta)


def add_shrink(
    buffers: Sequence[torch.Tensor],
    x: torch.Tensor,
    lora_a: Sequence[torch.Tensor],
    scale: float,
    plan: BatchPlan,
) -> None:
    """buffers[s][row] = scale · x[row] A_sᵀ, in place; rows without an adapter are left alone."""
    for segment in plan.segments:
        rows = x[segment.rows].double()
        for buffer, a in zip(buffers, lora_a, strict=True):
            hidden = rows @ a[segment.slot].double().T
            buffer[segment.rows] = hidden.mul_(scale).to(buffer.dtype)


def add_expand(
    y: torch.Tensor,
    buffers: Sequence[torch.Tensor],
    lora_b: Sequence[torch.Tensor],
    first_column: int,
    plan: BatchPlan,
) -> None:
    """y[row, slice] += buffers[s][row] B_sᵀ, in place, for slices from `first_column` on."""
    for segment in plan.segments:
        column = first_column
        for buffer, b in zip(buffers, lora_b, strict=True):
            columns = slice(column, column + b.shape[-2])
            delta = buffer[segment.rows].double() @ b[segment.slot].double().T
            _add(y, segment.rows, columns, delta)
            column = columns.stop


def replace_rows(
    y: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    enabled: torch.Tensor,
    plan: BatchPlan,
) -> None:
    """y[row] = x[row] Wᵀ + bias for rows whose slot brings a full matrix of its own, in place.

    weight [slots, out, in], bias [slots, out], enabled [slots] bool.
    """
    for segment in plan.segments:
        if bool(enabled[segment.slot]):
            full = x[segment.rows].double() @ weight[segment.slot].double().T
            y[segment.rows] = (full + bias[segment.slot].double()).to(y.dtype)


def _slices(
    lora_a: Sequence[torch.Tensor], lora_b: Sequence[torch.Tensor]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, slice]]:
    column = 0
    for a, b in zip(lora_a, lora_b, strict=True):
        columns = slice(column, column + b.shape[-2])
        yield a, b, columns
        column = columns.stop


def _add(y: torch.Tensor, rows: slice | torch.Tensor, columns: slice, delta: torch.Tensor) -> None:
    target = y[:, columns]
    target[rows] = (target[rows].double() + delta).to(y.dtype)
