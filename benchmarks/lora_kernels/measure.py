"""One case: the same weights for every contender, their answers checked, then timed in turns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from benchmarks.lora_kernels.clock import Call, clock_for
from benchmarks.lora_kernels.contenders import DTYPE, Layer, LayerMaker
from benchmarks.lora_kernels.grid import Case, sets_for_cold_weights
from stackserve_kernels.lora import BatchPlan, LayerWeights, SliceWeights, plan_rows
from stackserve_kernels.lora.reference import add_lora_reference

MOST_LOADS = 4096
CHECKED_ROWS = 16
LARGEST_ERROR = 1e-2
"""Of the delta, relative: rounding to bf16 is within 4e-3."""


@dataclass(frozen=True)
class Timing:
    """One contender in one case; `seconds` of one call, for each repeat.

    `error` is the relative error of its delta. A wrong contender is not timed.
    """

    shape: str
    rows: int
    adapters: int
    ranks: str
    contender: str
    seconds: tuple[float, ...]
    error: float
    floor_seconds: float
    weight_sets: int
    cold: bool

    @property
    def is_right(self) -> bool:
        return self.error <= LARGEST_ERROR


@dataclass(frozen=True)
class Bench:
    """How a run measures."""

    device: str
    repeats: int
    cache_bytes: int


def measure(
    case: Case, makers: Mapping[str, LayerMaker], bench: Bench, floor_seconds: float
) -> tuple[Timing, ...]:
    """Every contender in one case."""
    weights = make_weights(case, bench.device)
    x = torch.randn(case.rows, case.shape.in_features).to(bench.device, DTYPE)
    y = torch.zeros(case.rows, sum(case.shape.out_features), dtype=DTYPE, device=bench.device)
    plan = plan_rows(case.slots_of_rows)
    sets = sets_for_cold_weights(case, bench.cache_bytes, MOST_LOADS)
    errors: dict[str, float] = {}
    calls: dict[str, list[Call]] = {}
    for name, make in makers.items():
        layers = [_loaded(make(), weights) for _ in range(sets)]
        layers[0].add(y.zero_(), x, plan)
        errors[name] = relative_error(case, weights, x, y)
        if errors[name] <= LARGEST_ERROR:
            calls[name] = [_call(layer, y, x, plan) for layer in layers]
    y.zero_()
    seconds = take_turns(calls, bench)
    cold = sets * case.weight_bytes >= bench.cache_bytes
    return tuple(
        Timing(
            case.shape.name, case.rows, case.adapters, case.ranks, name,
            tuple(seconds.get(name, ())), errors[name], floor_seconds, sets, cold,
        )
        for name in makers
    )  # fmt: skip


def take_turns(calls: Mapping[str, list[Call]], bench: Bench) -> dict[str, list[float]]:
    """Seconds of one call by contender and repeat; each repeat begins with another contender."""
    clocks = {name: clock_for(bench.device, each) for name, each in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in clocks}
    names = list(clocks)
    for repeat in range(bench.repeats):
        start = repeat % len(names) if names else 0
        for name in (*names[start:], *names[:start]):
            seconds[name].append(clocks[name].seconds())
    return seconds


def make_weights(case: Case, device: str) -> list[LayerWeights]:
    """Random adapters, a different one for each slot, whose deltas are about as large as x."""
    generator = torch.Generator().manual_seed(0)

    def normal(rows: int, columns: int, scale: float) -> torch.Tensor:
        values = torch.empty(rows, columns, dtype=torch.float32).normal_(generator=generator)
        return values.mul_(scale).to(device, DTYPE)

    made = []
    for slot in range(case.adapters):
        rank = case.rank_of(slot)
        into = case.shape.in_features
        slices = tuple(
            SliceWeights(
                normal(rank, into, 1 / math.sqrt(into)), normal(out, rank, 1 / math.sqrt(rank))
            )
            for out in case.shape.out_features
        )
        made.append(LayerWeights(slices, scale=0.5))
    return made


def relative_error(
    case: Case, weights: list[LayerWeights], x: torch.Tensor, y: torch.Tensor
) -> float:
    """The norm of y less the float64 reference, over the reference's; y started at zero."""
    rows = sorted({number * case.rows // CHECKED_ROWS for number in range(CHECKED_ROWS)})
    slots = [case.slots_of_rows[row] for row in rows]
    zeros = torch.zeros(len(rows), y.shape[1], dtype=torch.float64, device=y.device)
    wanted = add_lora_reference(
        zeros, x[rows], case.shape.out_features, weights, slots, torch.float64
    )
    error = float((y[rows].double() - wanted).norm() / wanted.norm())
    return error if math.isfinite(error) else math.inf


def _loaded(layer: Layer, weights: list[LayerWeights]) -> Layer:
    for slot, each in enumerate(weights):
        layer.load(slot, each)
    return layer


def _call(layer: Layer, y: torch.Tensor, x: torch.Tensor, plan: BatchPlan) -> Call:
    add = layer.add
    return lambda: add(y, x, plan)
