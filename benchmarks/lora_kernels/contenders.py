"""The registry of contenders: each makes layers that keep the port `LoraLayer`.

A new one is one entry in `CONTENDERS`. Imports are lazy: what cannot be imported, or has nothing for
a layer, is named with its reason and left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from benchmarks.lora_kernels.grid import Case
from stackserve_kernels.lora import BatchPlan, LayerWeights

DTYPE = torch.bfloat16


class Layer(Protocol):
    """What is asked of a contender: the part of `LoraLayer` that is measured."""

    def load(self, slot: int, weights: LayerWeights) -> None: ...

    def add(self, y: torch.Tensor, x: torch.Tensor, plan: BatchPlan) -> None: ...


class LayerMaker(Protocol):
    """Makes the layers of one case; they may share what a step shares."""

    def __call__(self) -> Layer: ...


@dataclass(frozen=True)
class Contender:
    """`open` imports what it needs and may raise ImportError or ValueError."""

    name: str
    device: str
    open: Callable[[Case], LayerMaker]


def _grouped(case: Case) -> LayerMaker:
    from stackserve_kernels.lora.grouped import GroupedLayer

    shape = case.shape
    return lambda: GroupedLayer(shape.in_features, shape.out_features, case.adapters)


def _cpu(case: Case) -> LayerMaker:
    from stackserve_kernels.lora.cpu import CpuLayer

    shape = case.shape
    CpuLayer(shape.in_features, shape.out_features, case.adapters, DTYPE)  # raises now
    return lambda: CpuLayer(shape.in_features, shape.out_features, case.adapters, DTYPE)


def _triton(case: Case) -> LayerMaker:
    from benchmarks.lora_kernels.cuda_layers import TritonLayers

    return TritonLayers(case, "cuda")


def _vllm(case: Case) -> LayerMaker:
    from benchmarks.lora_kernels.cuda_layers import VllmLayers

    return VllmLayers(case, "cuda")


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("torch", "cpu", _grouped),
        Contender("cpu", "cpu", _cpu),
        Contender("vllm", "cuda", _vllm),
        Contender("triton", "cuda", _triton),
        Contender("torch-cuda", "cuda", _grouped),
    )
}


def usable(names: tuple[str, ...], case: Case) -> tuple[dict[str, LayerMaker], dict[str, str]]:
    """Makers by name, and the reasons of those that have none for this case."""
    makers: dict[str, LayerMaker] = {}
    reasons: dict[str, str] = {}
    for name in names:
        try:
            makers[name] = CONTENDERS[name].open(case)
        except (ImportError, ValueError, OSError) as failed:
            reasons[name] = f"{type(failed).__name__}: {failed}"
    return makers, reasons


def names_for(device: str) -> tuple[str, ...]:
    return tuple(each.name for each in CONTENDERS.values() if each.device == device)
