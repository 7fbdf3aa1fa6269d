"""CUDA contenders as layers: ours with one device plan for all layers of a step, and vLLM's ops."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.lora_kernels.grid import Case
from stackserve_kernels.lora import BatchPlan, LayerWeights
from stackserve_kernels.lora.triton import TritonLayer

DTYPE = torch.bfloat16
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class TritonLayers:
    """Layers of stackserve's Triton kernels. As in an engine, one plan serves them all."""

    def __init__(self, case: Case, device: str) -> None:
        self.case, self.device = case, device
        self._plan: tuple[BatchPlan, Any] | None = None

    def __call__(self) -> PlannedLayer:
        shape = self.case.shape
        layer = TritonLayer(
            shape.in_features, shape.out_features, self.case.adapters, DTYPE, self.device
        )
        return PlannedLayer(layer, self)

    def device_plan(self, plan: BatchPlan, width: int) -> Any:
        """Filled when a plan is first seen: outside of what is timed, once a step in an engine."""
        from stackserve_kernels.lora.device_plan import DevicePlan

        if self._plan is None or self._plan[0] is not plan:
            filled = DevicePlan(plan.num_rows, width, self.device)
            filled.fill(plan)
            self._plan = plan, filled
        return self._plan[1]


class PlannedLayer:
    """One layer of `TritonLayers`."""

    def __init__(self, layer: TritonLayer, step: TritonLayers) -> None:
        self._layer, self._step = layer, step

    def load(self, slot: int, weights: LayerWeights) -> None:
        self._layer.load(slot, weights)

    def add(self, y: torch.Tensor, x: torch.Tensor, plan: BatchPlan) -> None:
        self._layer.add_planned(y, x, self._step.device_plan(plan, self._layer.width))


class VllmLayers:
    """Layers on vLLM's lora_shrink and lora_expand, stacked to the largest rank as vLLM stacks them."""

    def __init__(self, case: Case, device: str) -> None:
        from vllm.lora.ops.triton_ops import LoRAKernelMeta, lora_expand, lora_shrink

        self.case, self.device = case, device
        self.shrink, self.expand = lora_shrink, lora_expand
        largest = max(map(case.rank_of, range(case.adapters)))
        self.rank = next(rank for rank in VLLM_RANKS if rank >= largest)
        self.meta = LoRAKernelMeta.make(case.adapters, case.rows, device=device)
        slices = len(case.shape.out_features)
        self.hidden = torch.empty(slices, case.rows, self.rank, dtype=torch.float32, device=device)
        self._plan: BatchPlan | None = None

    def __call__(self) -> StackedLayer:
        return StackedLayer(self)

    def arguments(self, plan: BatchPlan) -> tuple[Any, ...]:
        """vLLM's metadata of the step, made when a plan is first seen."""
        if self._plan is not plan:
            slots = torch.from_numpy(plan.slots).to(self.device, torch.int32)
            self.meta.prepare_tensors(slots)
            self._plan = plan
        return tuple(self.meta.meta_args(plan.num_rows, specialize_active_lora=False))


class StackedLayer:
    """One layer of `VllmLayers`: a [slots, 1, rank, in] and b [slots, 1, out, rank] for each slice."""

    def __init__(self, step: VllmLayers) -> None:
        self._step = step
        case, rank = step.case, step.rank
        shape, slots = case.shape, case.adapters

        def zeros(*sizes: int) -> torch.Tensor:
            return torch.zeros(slots, 1, *sizes, dtype=DTYPE, device=step.device)

        self._a = [zeros(rank, shape.in_features) for _ in shape.out_features]
        self._b = [zeros(out, rank) for out in shape.out_features]

    def load(self, slot: int, weights: LayerWeights) -> None:
        for number, each in enumerate(weights.slices):
            if each is not None:
                self._a[number][slot, 0, : each.rank] = each.a
                self._b[number][slot, 0, :, : each.rank] = each.b * weights.scale

    def add(self, y: torch.Tensor, x: torch.Tensor, plan: BatchPlan) -> None:
        step = self._step
        arguments = step.arguments(plan)
        step.shrink(x, self._a, step.hidden, *arguments, 1.0)
        step.expand(step.hidden, self._b, y, *arguments, offset_start=0, add_inputs=True)
