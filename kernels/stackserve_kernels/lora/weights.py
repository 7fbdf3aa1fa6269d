"""What an adapter brings to one layer, and the port of a layer that applies it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from stackserve_kernels.lora.memory import WeightMemory
from stackserve_kernels.lora.plan import BatchPlan


@dataclass(frozen=True, eq=False)
class SliceWeights:
    """One slice of a layer: a [rank, in], b [out, rank], of one dtype."""

    a: torch.Tensor
    b: torch.Tensor

    def __post_init__(self) -> None:
        if self.a.dim() != 2 or self.b.dim() != 2 or self.a.shape[0] != self.b.shape[1]:
            raise ValueError(
                f"a [rank, in] is {list(self.a.shape)} and b [out, rank] is {list(self.b.shape)}: "
                "they must be matrices of one rank"
            )

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """One adapter's weights for one layer; None for a slice that the adapter leaves alone."""

    slices: tuple[SliceWeights | None, ...]
    scale: float = 1.0

    @property
    def num_bytes(self) -> int:
        return sum(each.a.nbytes + each.b.nbytes for each in self.slices if each is not None)


class PreparedWeights(Protocol):
    """An adapter's weights for one layer as that layer's `place` wants them."""

    @property
    def num_bytes(self) -> int:
        """Bytes of host memory that they hold."""


class LoraLayer(Protocol):
    """The adapters of one layer by slot, and the op over a batch that mixes them.

    A layer has one input and one or more output slices that lie side by side in y: three for a fused
    q/k/v projection, two for gate/up.
    """

    @property
    def is_empty(self) -> bool:
        """No slot has weights."""

    def prepare(self, weights: LayerWeights, memory: WeightMemory | None = None) -> PreparedWeights:
        """Do for `weights` whatever takes time; in any thread, while others compute. Copies what it
        needs, into `memory` where that is the host's: give all layers of an adapter the same.
        """

    def place(self, slot: int, prepared: Any) -> None:
        """Let rows of `slot` get what this layer has prepared, from the next `add` on."""

    def load(self, slot: int, weights: LayerWeights, memory: WeightMemory | None = None) -> None:
        """`prepare` and `place` in one."""

    def unload(self, slot: int) -> None:
        """Free the weights of `slot`; its rows then get nothing."""

    def add(self, y: torch.Tensor, x: torch.Tensor, plan: BatchPlan) -> None:
        """y[row, slice] += scale · (x[row] Aᵀ) Bᵀ, in place, with the weights of the row's slot.

        x [rows, in], y [rows, sum of out]. Rows without an adapter keep their bits. A row's result
        does not depend on the other rows, and is rounded to y's dtype once.
        """


def check_weights(
    weights: LayerWeights, in_features: int, out_features: Sequence[int]
) -> tuple[SliceWeights | None, ...]:
    """The slices, or ValueError when they do not fit a layer of these sizes."""
    if len(weights.slices) != len(out_features):
        raise ValueError(f"{len(weights.slices)} slices for a layer of {len(out_features)}")
    for number, (each, out) in enumerate(zip(weights.slices, out_features, strict=True)):
        if each is not None and (each.a.shape[1], each.b.shape[0]) != (in_features, out):
            raise ValueError(
                f"slice {number} maps {each.a.shape[1]} to {each.b.shape[0]} features; "
                f"the layer maps {in_features} to {out}"
            )
    return weights.slices
