"""Checks of `TritonLayer` against the reference; prints the name of each that holds.

`triton_checks.py cpu` with TRITON_INTERPRET=1, which must be set before triton is imported, or
`triton_checks.py cuda`.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from stackserve_kernels.lora.device_plan import SPLIT_ROWS, DevicePlan
from stackserve_kernels.lora.plan import plan_rows
from stackserve_kernels.lora.reference import add_lora_reference
from stackserve_kernels.lora.triton import TritonLayer
from stackserve_kernels.lora.weights import LayerWeights, SliceWeights

DEVICE = sys.argv[1]
IN = 300
"""Three chunks, the last of which is not full."""
RANKS = (8, 33, 1, 16, 128, 4, 64)
ONE, FUSED = (144,), (144, 17, 40)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
ROUNDING = {torch.bfloat16: 2**-7, torch.float16: 2**-10, torch.float32: 1e-6}
"""Of a value: one unit in its last place, because the interpreter's conversion to bfloat16 cuts off."""
SUMS = {torch.bfloat16: 2e-5, torch.float16: 2e-5, torch.float32: 2e-6}
"""Of the largest value: what the sums themselves may lose."""

POPULARITY: dict[str, Callable[[int, int], Sequence[int]]] = {
    "uniform": lambda rows, adapters: [row % (adapters + 1) - 1 for row in range(rows)],
    "zipf": lambda rows, adapters: [
        min(int(rank), adapters) - 1 for rank in np.random.default_rng(1).zipf(1.3, rows)
    ],
    "one hot": lambda rows, adapters: [min(adapters, 1) - 1] * rows,
}


@dataclass(frozen=True)
class Case:
    rows: int
    adapters: int
    popularity: str
    dtype: torch.dtype
    out_features: tuple[int, ...]


SOME = (
    Case(0, 1, "one hot", torch.bfloat16, ONE),
    Case(1, 1, "one hot", torch.bfloat16, FUSED),
    Case(1, 1, "one hot", torch.float32, ONE),
    Case(3, 5, "uniform", torch.float32, FUSED),
    Case(3, 0, "uniform", torch.float16, FUSED),
    Case(16, 5, "zipf", torch.float16, FUSED),
    Case(16, 32, "uniform", torch.bfloat16, FUSED),
    Case(16, 5, "uniform", torch.float32, ONE),
    Case(257, 5, "zipf", torch.bfloat16, FUSED),
    Case(257, 32, "uniform", torch.float32, ONE),
    Case(257, 1, "one hot", torch.float16, ONE),
)
ALL = tuple(
    Case(*parts)
    for parts in product((0, 1, 3, 16, 257), (0, 1, 5, 32), POPULARITY, DTYPES, (ONE, FUSED))
)


class Bench:
    """A layer with adapters of mixed ranks in slots 0, 1, …, and a last slot of NaN that no row has."""

    def __init__(
        self,
        adapters: int,
        dtype: torch.dtype,
        out_features: tuple[int, ...] = FUSED,
        in_features: int = IN,
    ) -> None:
        self.layer = TritonLayer(
            in_features, out_features, adapters + 1, dtype, DEVICE, max_rank=128
        )
        self.weights: list[LayerWeights | None] = [
            self.draw(RANKS[n % len(RANKS)]) for n in range(adapters)
        ]
        poison = self.draw(RANKS[-1], torch.nan)
        for slot, each in enumerate([*self.weights, poison]):
            self.layer.load(slot, each)

    def draw(self, rank: int, factor: float = 1.0) -> LayerWeights:
        layer = self.layer
        return LayerWeights(
            tuple(
                SliceWeights(
                    tensor(rank, layer.in_features, layer.dtype) * factor,
                    tensor(out, rank, layer.dtype) * factor,
                )
                for out in layer.out_features
            ),
            scale=0.5,
        )

    def batch(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        y = tensor(rows, sum(self.layer.out_features), self.layer.dtype)
        return y, tensor(rows, self.layer.in_features, self.layer.dtype)

    def poisoned_plan(self, max_rows: int) -> DevicePlan:
        """What lies beyond a batch's own lines leads to the slot of NaN."""
        plan = DevicePlan(max_rows, self.layer.width, DEVICE)
        plan.hidden.fill_(torch.nan)
        plan.table[1:] = torch.tensor([0, self.layer.slots - 1, 0, 32], dtype=torch.int32)
        return plan

    def check(
        self, y: torch.Tensor, x: torch.Tensor, slots: Sequence[int], plan: DevicePlan
    ) -> None:
        """Run `add_planned` on y; compare with the reference, and base rows to the bit."""
        before, weights = y.clone(), [*self.weights, None]
        out_features = self.layer.out_features
        plan.fill(plan_rows(slots))
        self.layer.add_planned(y, x, plan)
        for precision in (torch.float64, torch.float32)[: 1 if len(slots) > 16 else 2]:
            want = add_lora_reference(before, x, out_features, weights, slots, precision).double()
            largest = want.abs().max() if want.numel() else 0.0
            bound = want.abs() * ROUNDING[y.dtype] + largest * SUMS[y.dtype]
            assert ((y.double() - want).abs() <= bound).all(), (precision, y.dtype, len(slots))
        base = [row for row, slot in enumerate(slots) if slot < 0]
        assert torch.equal(y[base], before[base])


def tensor(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(rows, columns).to(DEVICE, dtype)


def every_row_gets_the_delta_of_its_own_adapter() -> None:
    for case in ALL if DEVICE == "cuda" else SOME:
        bench = Bench(case.adapters, case.dtype, case.out_features)
        slots = POPULARITY[case.popularity](case.rows, case.adapters)
        bench.check(*bench.batch(case.rows), slots, bench.poisoned_plan(max(1, case.rows)))


def a_plan_that_held_a_larger_batch_serves_a_smaller_one() -> None:
    bench = Bench(5, torch.float32)
    plan = bench.poisoned_plan(64)
    for rows in (64, 3, 0, 40):
        plan.hidden.fill_(torch.nan)
        bench.check(*bench.batch(rows), POPULARITY["uniform"](rows, 5), plan)


def the_same_batch_twice_gives_the_same_bits() -> None:
    bench = Bench(5, torch.float32)
    (y, x), plan = bench.batch(40), plan_rows(POPULARITY["zipf"](40, 5))
    again = y.clone()
    bench.layer.add(y, x, plan)
    bench.layer.add(again, x, plan)
    assert torch.equal(y, again)


def a_row_has_the_same_bits_alone_and_in_any_company() -> None:
    """Company of more than SPLIT_ROWS too, where one program takes a whole sum."""
    rows = SPLIT_ROWS + 44
    companies = ([0, 1, 2, 5, 299], [7, 0, 299, 5, 8, 9, 2], [0], [5], [299], range(rows))
    slots = [row * row % 5 for row in range(rows)]
    for dtype in (torch.float32, torch.bfloat16):
        bench = Bench(5, dtype, ONE, in_features=1100)
        (y, x), seen = bench.batch(rows), {}
        for company in map(list, companies):
            part = y[company]
            bench.layer.add(part, x[company], plan_rows([slots[row] for row in company]))
            for row, result in zip(company, part, strict=True):
                assert torch.equal(result, seen.setdefault(row, result)), (dtype, row, company)


def slots_are_loaded_unloaded_and_loaded_again() -> None:
    bench = Bench(3, torch.float32)
    y, x = bench.batch(6)
    plan, slots = bench.poisoned_plan(8), [0, 1, 2, 0, 1, -1]
    bench.check(y, x, slots, plan)

    bench.layer.unload(1)
    kept = y.clone()
    bench.weights[1] = None
    bench.check(y, x, slots, plan)
    assert torch.equal(y[[1, 4]], kept[[1, 4]])

    bench.weights[1] = bench.draw(64)
    bench.layer.load(1, bench.weights[1])
    bench.weights[0] = bench.draw(2)
    bench.layer.load(0, bench.weights[0])
    bench.check(y, x, slots, plan)


def a_layer_with_reserved_memory_takes_no_more() -> None:
    """The same results at the same addresses, in slots whose sizes are no multiple of 16."""
    bench = Bench(3, torch.float32)
    layer = bench.layer = TritonLayer(
        IN, FUSED, 4, torch.float32, DEVICE, max_rank=33, reserve=True
    )
    seen = []
    for rank in (33, 1, 8):
        bench.weights = [bench.draw(rank), bench.draw(5), bench.draw(33)]
        for slot, each in enumerate(bench.weights):
            layer.load(slot, each)
        bench.check(*bench.batch(6), [0, 1, 2, 0, 1, -1], bench.poisoned_plan(8))
        seen.append(layer._entries[:, :, :2].clone())
        layer.unload(1)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
    assert (seen[0] % 16 == 0).all()


def a_slice_that_an_adapter_leaves_alone_keeps_its_bits() -> None:
    bench = Bench(2, torch.float32)
    first, _, third = bench.weights[0].slices
    bench.weights[0] = LayerWeights((first, None, third), 2.0)
    bench.layer.load(0, bench.weights[0])
    y, x = bench.batch(4)
    before = y.clone()
    bench.check(y, x, [0, 1, 0, -1], bench.poisoned_plan(4))
    assert torch.equal(y[[0, 2], 144:161], before[[0, 2], 144:161])


def slices_may_have_ranks_of_their_own() -> None:
    bench = Bench(2, torch.bfloat16)
    mixed = zip(bench.draw(40).slices, bench.draw(3).slices, bench.draw(17).slices, strict=True)
    bench.weights[1] = LayerWeights(tuple(each[n] for n, each in enumerate(mixed)))
    bench.layer.load(1, bench.weights[1])
    bench.check(*bench.batch(5), [1, 0, -1, 1, 1], bench.poisoned_plan(5))


def rows_may_lie_apart_in_memory_and_end_after_the_plan() -> None:
    bench = Bench(3, torch.float32)
    wide_y, wide_x = tensor(7, 300, torch.float32), tensor(7, 500, torch.float32)
    y, x = wide_y[:, 50:251], wide_x[:, 100:400]
    before, kept = wide_y.clone(), y.clone()
    bench.layer.add(y, x, plan_rows([0, -1, 2, 1]))
    want = add_lora_reference(kept, x, FUSED, bench.weights, [0, -1, 2, 1])
    assert torch.allclose(y, want, atol=1e-3)
    assert torch.equal(wide_y[:, :50], before[:, :50])
    assert torch.equal(wide_y[:, 251:], before[:, 251:])
    assert torch.equal(y[4:], kept[4:])


def layers_of_one_step_share_a_plan() -> None:
    small, large = Bench(3, torch.float32, ONE), Bench(3, torch.float32, FUSED, in_features=64)
    plan = large.poisoned_plan(9)
    slots = POPULARITY["uniform"](9, 3)
    for bench in (large, small, large):
        bench.check(*bench.batch(9), slots, plan)


def an_infinite_value_stays_in_its_row() -> None:
    """And stays infinite at rank 1: 0 · ∞ of the masked ranks of a tile would make it NaN."""
    bench = Bench(1, torch.float32, ONE)
    bench.layer.load(0, bench.draw(1))
    y, x = bench.batch(3)
    x[1, 7] = torch.inf
    bench.layer.add(y, x, plan_rows([0, 0, 0]))
    assert y[[0, 2]].isfinite().all()
    assert y[1].isinf().all()


def a_layer_is_empty_while_no_slot_has_weights() -> None:
    layer = TritonLayer(IN, ONE, 2, torch.float32, DEVICE)
    assert layer.is_empty
    layer.load(1, LayerWeights((SliceWeights(torch.ones(2, IN), torch.ones(144, 2)),)))
    assert not layer.is_empty
    layer.unload(1)
    assert layer.is_empty


def what_does_not_fit_is_refused() -> None:
    bench = Bench(1, torch.float32)
    layer, (y, x) = bench.layer, bench.batch(4)
    plan = DevicePlan(4, layer.width, DEVICE)
    plan.fill(plan_rows([0, 0, 0, 0]))
    for refused in (
        lambda: layer.load(2, bench.weights[0]),
        lambda: layer.unload(-1),
        lambda: layer.load(0, bench.draw(129)),
        lambda: layer.add_planned(y.bfloat16(), x, plan),
        lambda: layer.add_planned(y, x.T, plan),
        lambda: layer.add_planned(y[:3], x[:3], plan),
        lambda: layer.add_planned(y, x, DevicePlan(4, layer.width - 1, DEVICE)),
        lambda: plan.fill(plan_rows([0] * 5)),
    ):
        try:
            refused()
        except ValueError:
            continue
        raise AssertionError("not refused")


def one_cuda_graph_serves_every_mix_of_adapters() -> None:
    bench = Bench(5, torch.bfloat16, in_features=4096)
    plan, (y, x) = bench.poisoned_plan(64), bench.batch(64)
    before = y.clone()
    plan.fill(plan_rows([0] * 3))
    bench.layer.add_planned(y, x, plan)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        bench.layer.add_planned(y, x, plan)
    mixes = [POPULARITY["zipf"](64, 5), POPULARITY["uniform"](40, 4), [-1] * 64, [4] * 2]
    for number, slots in enumerate(mixes):
        if number == 1:
            bench.weights[2] = bench.draw(128)
            bench.layer.load(2, bench.weights[2])
        direct = before.clone()
        bench.check(direct, x, slots, plan)
        y.copy_(before)
        graph.replay()
        assert torch.equal(y, direct), number


def checks() -> Iterator[Callable[[], None]]:
    yield every_row_gets_the_delta_of_its_own_adapter
    yield a_plan_that_held_a_larger_batch_serves_a_smaller_one
    yield the_same_batch_twice_gives_the_same_bits
    yield a_row_has_the_same_bits_alone_and_in_any_company
    yield slots_are_loaded_unloaded_and_loaded_again
    yield a_layer_with_reserved_memory_takes_no_more
    yield a_slice_that_an_adapter_leaves_alone_keeps_its_bits
    yield slices_may_have_ranks_of_their_own
    yield rows_may_lie_apart_in_memory_and_end_after_the_plan
    yield layers_of_one_step_share_a_plan
    yield an_infinite_value_stays_in_its_row
    yield a_layer_is_empty_while_no_slot_has_weights
    yield what_does_not_fit_is_refused
    if DEVICE == "cuda":
        yield one_cuda_graph_serves_every_mix_of_adapters


if __name__ == "__main__":
    torch.set_num_threads(1)
    for check in checks():
        torch.manual_seed(0)
        try:
            check()
        except Exception:  # noqa: BLE001  # the other checks say something too
            print(check.__name__, traceback.format_exc(), sep="\n", file=sys.stderr)
        else:
            print(check.__name__, flush=True)
