"""A contender that answers wrongly is not timed; one that is not there is named."""

from __future__ import annotations

import pytest
import torch

from benchmarks.lora_kernels import contenders
from benchmarks.lora_kernels.contenders import Contender, usable
from benchmarks.lora_kernels.grid import Case, Shape
from benchmarks.lora_kernels.measure import Bench, Timing, measure
from benchmarks.lora_kernels.report import overall, table_rows
from stackserve_kernels.lora import GroupedLayer, LayerWeights

CASE = Case(Shape("tiny", 32, (16, 8)), rows=6, adapters=2, ranks="mixed")
BENCH = Bench("cpu", repeats=3, cache_bytes=1)


class Forgetful(GroupedLayer):
    """Gives every slot the weights of slot 0."""

    def load(self, slot: int, weights: LayerWeights) -> None:
        if slot == 0:
            for each in range(CASE.adapters):
                super().load(each, weights)


@pytest.fixture(autouse=True)
def _short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.lora_kernels.clock.BLOCK_SECONDS", 0.001)


def layer(kind: type[GroupedLayer]) -> GroupedLayer:
    return kind(CASE.shape.in_features, CASE.shape.out_features, CASE.adapters)


def test_right_contenders_are_timed_and_wrong_ones_are_not() -> None:
    makers = {"right": lambda: layer(GroupedLayer), "wrong": lambda: layer(Forgetful)}
    with torch.inference_mode():
        right, wrong = measure(CASE, makers, BENCH, 1e-6)
    assert right.is_right
    assert len(right.seconds) == 3
    assert not wrong.is_right
    assert wrong.seconds == ()
    shown = [row for row in table_rows([right, wrong]) if row]
    assert "wrong by" in shown[-1][2]


def test_a_contender_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(case: Case) -> object:
        raise ImportError("no module named fast")

    monkeypatch.setitem(contenders.CONTENDERS, "absent", Contender("absent", "cpu", absent))
    makers, reasons = usable(("torch", "absent"), CASE)
    assert list(makers) == ["torch"]
    assert reasons == {"absent": "ImportError: no module named fast"}


def test_the_summary_names_the_mean_and_the_worst_case() -> None:
    def timing(shape: str, contender: str, seconds: float) -> Timing:
        return Timing(shape, 4, 2, "8", contender, (seconds,) * 3, 0.0, 1e-6, 2, True)

    timings = [
        timing(*each)
        for each in (("a", "x", 1.0), ("a", "y", 0.25), ("b", "x", 1.0), ("b", "y", 1.0))
    ]
    found = overall(timings)["y"]
    assert (found["geometric_mean"], found["worst"], found["cases"]) == (0.5, 1.0, 2)
    assert found["worst_case"].startswith("b,")
