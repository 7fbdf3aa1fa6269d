"""LoRA in torch, grouped by adapter: one small GEMM pair for each (adapter, slice), in float64.

Serves where there are no compiled kernels, and the rare ops that come in two halves (embeddings,
sharded layers), whose weights lie stacked by slot as vLLM keeps them.

Why float64: a GEMM library sums in another order for another number of rows, so in fp32 a row's last
bits depend on who shares its batch. In float64 they differ far below what bf16 and fp32 can hold.

Stacked shapes, for slice s: lora_a[s] [slots, rank, in]; lora_b[s] [slots, out_s, rank]. Rows past
`plan.num_rows` have no adapter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stackserve_kernels.lora.memory import WeightMemory
from stackserve_kernels.lora.plan import BatchPlan
from stackserve_kernels.lora.weights import LayerWeights, check_weights


class GroupedLayer:
    """A `LoraLayer` in torch, for weights and rows of any type."""

    def __init__(self, in_features: int, out_features: Sequence[int], slots: int) -> None:
        self.in_features = in_features
        self.out_features = tuple(out_features)
        self._weights: list[LayerWeights | None] = [None] * slots

    @property
    def is_empty(self) -> bool:
        return not any(self._weights)

    def prepare(self, weights: LayerWeights, memory: WeightMemory | None = None) -> LayerWeights:
        """See `LoraLayer.prepare`. Keeps a copy, in torch's own memory."""
        slices = check_weights(weights, self.in_features, self.out_features)
        copies = (each and type(each)(each.a.clone(), each.b.clone()) for each in slices)
        return LayerWeights(tuple(copies), weights.scale)

    def place(self, slot: int, prepared: LayerWeights) -> None:
        """See `LoraLayer.place`."""
        self._weights[slot] = prepared

    def load(self, slot: int, weights: LayerWeights, memory: WeightMemory | None = None) -> None:
        """See `LoraLayer.load`."""
        self.place(slot, self.prepare(weights, memory))

    def unload(self, slot: int) -> None:
        self._weights[slot] = None

    def add(self, y: torch.Tensor, x: torch.Tensor, plan: BatchPlan) -> None:
        """See `LoraLayer.add`."""
        for segment in plan.segments:
            weights = self._weights[segment.slot]
            if weights is None:
                continue
            rows, column = x[segment.rows].double(), 0
            for out, each in zip(self.out_features, weights.slices, strict=True):
                if each is not None:
                    hidden = (rows @ each.a.double().T).mul_(weights.scale)
                    delta = hidden @ each.b.double().T
                    _add(y, segment.rows, slice(column, column + out), delta)
                column += out


def add_stacked(
    y: torch.Tensor,
    x: torch.Tensor,
    lora_a: Sequence[torch.Tensor],
    lora_b: Sequence[torch.Tensor],
    scale: float,
    plan: BatchPlan,
) -> None:
    """y[row, slice] += scale · (x[row] Aᵀ) Bᵀ, in place, with stacked weights."""
    rows = len(x)
    buffers = [x.new_zeros(rows, a.shape[-2], dtype=torch.float64) for a in lora_a]
    add_shrink(buffers, x, lora_a, scale, plan)
    add_expand(y, buffers, lora_b, 0, plan)


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


def _add(y: torch.Tensor, rows: slice | torch.Tensor, columns: slice, delta: torch.Tensor) -> None:
    target = y[:, columns]
    target[rows] = (target[rows].double() + delta).to(y.dtype)
