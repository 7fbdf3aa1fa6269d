"""The check at start: the decision with made-up figures, and the measuring with made-up sides and clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from stackserve_kernels.lora.reference import add_lora_reference
from stackserve_kernels.lora.selfcheck import (
    REPEATS,
    Clock,
    Figure,
    Run,
    Shape,
    Trial,
    choose_on_device,
    decide,
    make_trials,
    measure,
    what_is_wrong,
)

FAST = Figure("a fast case", "", 10.0, 20.0)
SLOWER = Figure("a slower case", "", 11.0, 10.0)
MUCH_SLOWER = Figure("a bad case", "", 20.0, 10.0)
WRONG = Figure("a wrong case", "two runs differ", float("inf"), float("inf"))


@pytest.fixture
def trial() -> Trial:
    return next(trials(rows=(9,)))


def trials(rows: tuple[int, ...] = (1, 9)) -> Iterator[Trial]:
    shape = Shape(24, (16, 8))
    return make_trials([shape], 3, (2, 4), rows, torch.bfloat16, torch.device("cpu"))


def right_side(trial: Trial) -> Run:
    slots = trial.plan.slots.tolist()

    def run(y: torch.Tensor) -> None:
        y.copy_(add_lora_reference(y, trial.x, trial.shape.out_features, trial.adapters, slots))

    return run


def clock_of(*times: float) -> Clock:
    """Gives the sides these times, in the order in which they are prepared."""
    given = iter(times)

    def clock(run: Callable[[], None]) -> Callable[[], float]:
        us = next(given)

        def once() -> float:
            run()
            return us

        return once

    return clock


def test_ours_is_used_when_it_is_faster_on_the_whole_and_nowhere_much_slower() -> None:
    verdict = decide([FAST, SLOWER])
    assert verdict.use_ours
    assert "1.35 times the speed" in verdict.reason
    assert "a slower case" in verdict.reason


@pytest.mark.parametrize(
    ("figures", "because"),
    [
        ([], "nothing was measured"),
        ([SLOWER], "0.91 times the speed"),
        ([FAST, FAST, MUCH_SLOWER], "much slower in one case: at worst 20 µs against 10 µs"),
        ([FAST, WRONG], "wrong here (a wrong case: two runs differ)"),
    ],
)
def test_ours_is_not_used_and_the_reason_says_why(figures: list[Figure], because: str) -> None:
    verdict = decide(figures)
    assert not verdict.use_ours
    assert because in verdict.reason
    assert verdict.figures == tuple(figures)


def test_both_sides_are_timed_in_turn_and_the_median_counts(trial: Trial) -> None:
    calls: list[str] = []

    def clock(run: Callable[[], None]) -> Callable[[], float]:
        name = "theirs" if calls else "ours"
        calls.append(name)

        def once() -> float:
            calls.append(name)
            return {"ours": 5.0, "theirs": 8.0}[name] + (1000.0 if len(calls) < 5 else 0.0)

        return once

    (figure,) = measure([trial], right_side, lambda _: lambda y: None, clock)
    assert figure == Figure("24 to 16+8, 9 rows of 3 adapters", "", 5.0, 8.0)
    assert calls == ["ours", "theirs"] * (1 + REPEATS)


def test_every_trial_has_a_figure_while_ours_is_right() -> None:
    clock = clock_of(1, 2, 3, 5)
    figures = list(measure(trials(), right_side, right_side, clock))
    assert [(each.ours_us, each.theirs_us) for each in figures] == [(1, 2), (3, 5)]


def test_measuring_ends_where_ours_is_wrong() -> None:
    figures = list(measure(trials(), lambda _: lambda y: None, right_side, clock_of()))
    assert [each.wrong for each in figures] == ["the error is 1.0e+00 of the delta"]


def test_a_right_side_has_nothing_wrong(trial: Trial) -> None:
    assert what_is_wrong(trial, right_side(trial)) == ""


def test_a_row_without_an_adapter_may_not_change(trial: Trial) -> None:
    def run(y: torch.Tensor) -> None:
        right_side(trial)(y)
        y[3] += 1

    assert what_is_wrong(trial, run) == "it changes rows without an adapter"


def test_two_runs_may_not_differ(trial: Trial) -> None:
    def run(y: torch.Tensor) -> None:
        y += torch.rand_like(y)

    assert what_is_wrong(trial, run) == "two runs differ"


def test_not_a_number_is_wrong(trial: Trial) -> None:
    def run(y: torch.Tensor) -> None:
        right_side(trial)(y)
        y[0, 0] = torch.inf

    assert "of the delta" in what_is_wrong(trial, run)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a device that is not there")
def test_a_check_that_cannot_run_is_a_no_and_no_exception() -> None:
    verdict = choose_on_device([Shape(24, (16,))], 3, [4], [1], right_side)
    assert not verdict.use_ours
    assert verdict.reason.startswith("the self-check failed: ")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_our_layer_is_right_and_is_timed() -> None:
    shapes = [Shape(4096, (4096, 1024, 1024)), Shape(14336, (4096,))]
    verdict = choose_on_device(shapes, 8, [8, 64, 16], [1, 64, 512], lambda _: torch.Tensor.abs_)
    assert [each.wrong for each in verdict.figures] == [""] * 6
    assert all(each.ours_us > 0 for each in verdict.figures)
