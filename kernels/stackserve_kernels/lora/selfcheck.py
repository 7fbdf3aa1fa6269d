"""The check at start: is our layer right on this device, and faster than what it would replace?

Measuring needs the device; deciding is a pure function of the figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch

from stackserve_kernels.lora.plan import NO_ADAPTER, BatchPlan, plan_rows
from stackserve_kernels.lora.reference import add_lora_reference
from stackserve_kernels.lora.weights import LayerWeights, SliceWeights

TOLERANCE = 1e-2
"""Largest norm of the delta's error, relative to the delta's norm."""

SLOWEST = 1.25
"""No case may take so many times the alternative's time, however fast the others are."""

REFERENCE_ROWS = 64
REPEATS = 15
WARM_UPS = 3
FLUSHED_BYTES = 256 << 20
"""Written before each timed run. More than any L2 cache: in a model the layers between empty it too."""


@dataclass(frozen=True)
class Shape:
    """A layer's sizes."""

    in_features: int
    out_features: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.in_features} to {'+'.join(map(str, self.out_features))}"


@dataclass(frozen=True, eq=False)
class Trial:
    """One batch for both sides: x [rows, in] and y [rows, sum of out] of one dtype on the device.

    `adapters[slot]` are on the device; `plan.slots[row]` is a row's slot, or `NO_ADAPTER`.
    """

    shape: Shape
    adapters: tuple[LayerWeights, ...]
    plan: BatchPlan
    x: torch.Tensor
    y: torch.Tensor

    def __str__(self) -> str:
        return f"{self.shape}, {len(self.x)} rows of {len(self.plan.segment_slots)} adapters"


Run = Callable[[torch.Tensor], None]
"""Adds the delta of its trial to the given y, in place."""

Side = Callable[[Trial], Run]
"""Loads a trial's adapters once; what it returns is timed."""

Clock = Callable[[Callable[[], None]], Callable[[], float]]
"""Prepares a run; what it returns runs it once and gives the device's microseconds."""


@dataclass(frozen=True)
class Figure:
    """What one trial came to: `wrong` is empty, or says what is."""

    trial: str
    wrong: str
    ours_us: float
    theirs_us: float


@dataclass(frozen=True)
class Verdict:
    """Whether to use our layer, and why, as a sentence for the log."""

    use_ours: bool
    reason: str
    figures: tuple[Figure, ...]


def choose_on_device(
    shapes: Sequence[Shape],
    slots: int,
    ranks: Sequence[int],
    rows: Sequence[int],
    alternative: Side,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cuda",
) -> Verdict:
    """Check and time `TritonLayer` against `alternative` for every shape and number of rows.

    Slot n has rank `ranks[n % len(ranks)]`; the first is the layers' largest. A failure of either
    side is a verdict too.
    """
    trials = make_trials(shapes, slots, ranks, rows, dtype, torch.device(device))
    try:
        return decide(list(measure(trials, triton_side, alternative, CudaClock(device))))
    except Exception as error:  # noqa: BLE001  # a start must not fail for want of the faster op
        return Verdict(False, f"the self-check failed: {type(error).__name__}: {error}", ())


def decide(figures: Sequence[Figure]) -> Verdict:
    """Ours if it is right in every trial, faster on the whole, and nowhere much slower."""
    figures = tuple(figures)
    wrong = [f"{each.trial}: {each.wrong}" for each in figures if each.wrong]
    if wrong:
        return Verdict(False, f"our kernels are wrong here ({wrong[0]})", figures)
    if not figures:
        return Verdict(False, "nothing was measured", figures)
    speed = math.exp(sum(math.log(f.theirs_us / f.ours_us) for f in figures) / len(figures))
    worst = max(figures, key=lambda f: f.ours_us / f.theirs_us)
    slowest = f"at worst {worst.ours_us:.0f} µs against {worst.theirs_us:.0f} µs ({worst.trial})"
    if speed <= 1:
        return Verdict(False, f"our kernels have {speed:.2f} times the speed; {slowest}", figures)
    if worst.ours_us > SLOWEST * worst.theirs_us:
        return Verdict(False, f"our kernels are much slower in one case: {slowest}", figures)
    return Verdict(True, f"our kernels have {speed:.2f} times the speed; {slowest}", figures)


def make_trials(
    shapes: Sequence[Shape],
    slots: int,
    ranks: Sequence[int],
    rows: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
) -> Iterator[Trial]:
    """One at a time, for the memory. Row i of a batch has slot i mod (slots + 1) - 1: some have none."""
    draw = torch.Generator(device).manual_seed(0)

    def tensor(lines: int, features: int) -> torch.Tensor:
        return torch.randn(lines, features, generator=draw, device=device).to(dtype)

    def matrix(out: int, features: int) -> torch.Tensor:
        return tensor(out, features) / math.sqrt(features)

    for shape in shapes:
        adapters = tuple(
            LayerWeights(
                tuple(
                    SliceWeights(matrix(rank, shape.in_features), matrix(out, rank))
                    for out in shape.out_features
                )
            )
            for rank in (ranks[slot % len(ranks)] for slot in range(slots))
        )
        for count in rows:
            plan = plan_rows([(row + 1) % (slots + 1) - 1 for row in range(count)])
            x, y = tensor(count, shape.in_features), tensor(count, sum(shape.out_features))
            yield Trial(shape, adapters, plan, x, y)


def measure(trials: Iterable[Trial], ours: Side, theirs: Side, clock: Clock) -> Iterator[Figure]:
    """The figure of each trial: medians of times that are taken in turn.

    Ends with the first trial in which ours is wrong, which is not timed.
    """
    for trial in trials:
        our_run = ours(trial)
        wrong = what_is_wrong(trial, our_run)
        if wrong:
            yield Figure(str(trial), wrong, math.inf, math.inf)
            return
        y = trial.y.clone()
        once = [clock(partial(run, y)) for run in (our_run, theirs(trial))]
        times = [[take() for take in once] for _ in range(REPEATS)]
        ours_us, theirs_us = map(median, zip(*times, strict=True))
        yield Figure(str(trial), "", ours_us, theirs_us)


def what_is_wrong(trial: Trial, run: Run) -> str:
    """Empty, or what `run` does that the reference does not."""
    delta, again, base = torch.zeros_like(trial.y), torch.zeros_like(trial.y), trial.y.clone()
    for y in (delta, again, base):
        run(y)
    if not torch.equal(delta, again):
        return "two runs differ"
    without = torch.from_numpy(trial.plan.slots == NO_ADAPTER).to(trial.y.device)
    if not torch.equal(base[without], trial.y[without]):
        return "it changes rows without an adapter"
    some = list(range(0, len(trial.y), max(1, len(trial.y) // REFERENCE_ROWS)))
    for y, start in ((delta, torch.zeros_like(trial.y)), (base, trial.y)):
        error = _relative_error(trial, y[some], start[some].double(), some)
        if not error < TOLERANCE:
            return f"the error is {error:.1e} of the delta"
    return ""


def _relative_error(trial: Trial, y: torch.Tensor, start: torch.Tensor, rows: list[int]) -> float:
    """‖y - want‖ / ‖want - start‖ over some rows, in float64."""
    slots = [int(slot) for slot in trial.plan.slots[rows]]
    want = add_lora_reference(
        start, trial.x[rows], trial.shape.out_features, trial.adapters, slots, torch.float64
    )
    delta = float((want - start).norm())
    return float((y.double() - want).norm()) / delta if delta else 0.0


def triton_side(trial: Trial) -> Run:
    """Our side of a trial: its adapters in a `TritonLayer`, its plan on the device."""
    from stackserve_kernels.lora.device_plan import DevicePlan
    from stackserve_kernels.lora.triton import TritonLayer

    ranks = [each.rank for adapter in trial.adapters for each in adapter.slices if each is not None]
    layer = TritonLayer(
        trial.shape.in_features,
        trial.shape.out_features,
        len(trial.adapters),
        trial.x.dtype,
        trial.x.device,
        max_rank=max(ranks),
    )
    for slot, weights in enumerate(trial.adapters):
        layer.load(slot, weights)
    plan = DevicePlan(max(1, len(trial.x)), layer.width, trial.x.device)
    plan.fill(trial.plan)
    return lambda y: layer.add_planned(y, trial.x, plan)


class CudaClock:
    """Times a run as a CUDA graph, by events, with nothing of it in the L2 cache."""

    def __init__(self, device: torch.device | str) -> None:
        self._flushed = torch.empty(FLUSHED_BYTES, dtype=torch.int8, device=device)

    def __call__(self, run: Callable[[], None]) -> Callable[[], float]:
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def once() -> float:
            self._flushed.zero_()
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            return 1000 * float(begin.elapsed_time(end))

        return once
