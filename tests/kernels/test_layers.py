"""Every LoRA layer that runs on this machine, against the reference and against itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice

import pytest
import torch

from stackserve_kernels import lora
from stackserve_kernels.lora.reference import add_lora_reference

RANKS = (1, 4, 8, 16, 33, 64, 128)
SHAPES = {"one slice": (96, (40,)), "q/k/v": (64, (48, 16, 17)), "odd input": (50, (32,))}
ROUNDING = {torch.float32: 2**-23, torch.bfloat16: 2**-8}
"""Of each value, for the one rounding of a result to its type."""
SUMMING = 1e-5
"""Of the largest value, for sums in fp32."""

Popularity = Callable[[int, int], Sequence[int]]
POPULARITY: dict[str, Popularity] = {
    "no adapter": lambda rows, slots: [-1] * rows,
    "one hot": lambda rows, slots: [0] * rows,
    "uniform with base rows": lambda rows, slots: [row % (slots + 1) - 1 for row in range(rows)],
    "blocks with base rows": lambda rows, slots: sorted(row % (slots + 1) - 1 for row in range(rows)),
    "zipf": lambda rows, slots: [int(slots * (row / rows) ** 3) for row in range(rows)],
}  # fmt: skip

Make = Callable[[int, Sequence[int], int, torch.dtype], lora.LoraLayer]


def compiled(level: lora.InstructionSet) -> Make:
    def make(
        in_features: int, outs: Sequence[int], slots: int, dtype: torch.dtype
    ) -> lora.LoraLayer:
        library = lora.cpu_library()
        if library is None or level > library.best:
            pytest.skip(f"this CPU has no {level.name}, or there was no compiler")
        return lora.CpuLayer(in_features, outs, slots, dtype, level)

    return make


LAYERS: dict[str, Make] = {
    "torch": lambda in_features, outs, slots, dtype: lora.GroupedLayer(in_features, outs, slots)
} | {level.name: compiled(level) for level in lora.InstructionSet}


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=LAYERS)
def make(request: pytest.FixtureRequest) -> Make:
    return LAYERS[request.param]


def adapter(
    in_features: int, outs: Sequence[int], rank: int, dtype: torch.dtype, scale: float = 0.5
) -> lora.LayerWeights:
    def one(out: int) -> lora.SliceWeights:
        a = torch.randn(rank, in_features) / in_features**0.5
        return lora.SliceWeights(a.to(dtype), torch.randn(out, rank).to(dtype))

    return lora.LayerWeights(tuple(one(out) for out in outs), scale)


def loaded(
    make: Make, shape: str, slots: int, dtype: torch.dtype
) -> tuple[lora.LoraLayer, list[lora.LayerWeights]]:
    in_features, outs = SHAPES[shape]
    layer = make(in_features, outs, slots, dtype)
    ranks = islice(cycle(RANKS), slots)
    adapters = [adapter(in_features, outs, rank, dtype) for rank in ranks]
    for slot, weights in enumerate(adapters):
        layer.load(slot, weights)
    return layer, adapters


def batch(shape: str, rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    in_features, outs = SHAPES[shape]
    return torch.randn(rows, in_features).to(dtype), torch.randn(rows, sum(outs)).to(dtype)


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("popularity", POPULARITY)
@pytest.mark.parametrize("slots", [1, 5, 32])
def test_a_mixed_batch_equals_the_reference_and_leaves_base_rows_bit_for_bit(
    make: Make, dtype: torch.dtype, shape: str, popularity: str, slots: int
) -> None:
    layer, adapters = loaded(make, shape, slots, dtype)
    for rows in (0, 1, 3, 16, 257):
        assigned = POPULARITY[popularity](rows, slots)
        x, y = batch(shape, rows, dtype)
        exact = add_lora_reference(
            y.double(), x, SHAPES[shape][1], adapters, assigned, torch.float64
        )
        before = y.clone()

        layer.add(y, x, lora.plan_rows(assigned))

        size = exact.abs().max().item() if rows else 1.0
        assert torch.allclose(y.double(), exact, rtol=ROUNDING[dtype], atol=SUMMING * size)
        base = [row for row, slot in enumerate(assigned) if slot < 0]
        assert torch.equal(y[base], before[base])


def test_the_reference_in_fp32_equals_the_one_in_fp64_to_rounding() -> None:
    in_features, outs = SHAPES["q/k/v"]
    adapters = [adapter(in_features, outs, rank, torch.float32) for rank in RANKS]
    x, y = batch("q/k/v", 7, torch.float32)
    one, two = (
        add_lora_reference(y, x, outs, adapters, range(7), precision)
        for precision in (torch.float32, torch.float64)
    )
    assert torch.allclose(one, two, atol=1e-4)
    assert not torch.equal(one, y)


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_has_the_same_bits_alone_in_any_company_and_twice(
    make: Make, dtype: torch.dtype, shape: str
) -> None:
    layer, _ = loaded(make, shape, 5, dtype)
    x, y = batch(shape, 150, dtype)
    slots = [row * row % 6 - 1 if row < 60 else 3 for row in range(150)]
    together, again = y.clone(), y.clone()
    layer.add(together, x, lora.plan_rows(slots))
    layer.add(again, x, lora.plan_rows(slots))
    assert torch.equal(together, again)
    for row, slot in enumerate(slots):
        alone = y[row : row + 1].clone()
        layer.add(alone, x[row : row + 1].clone(), lora.plan_rows([slot]))
        assert torch.equal(alone[0], together[row]), row


def test_a_row_has_the_same_bits_on_one_thread_and_on_several(make: Make) -> None:
    layer, _ = loaded(make, "q/k/v", 5, torch.bfloat16)
    x, y = batch("q/k/v", 64, torch.bfloat16)
    many, one = y.clone(), y.clone()
    plan = lora.plan_rows([row % 5 for row in range(64)])
    layer.add(many, x, plan)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        layer.add(one, x, plan)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, many)


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_what_a_batch_does_not_use_is_never_read(make: Make, dtype: torch.dtype) -> None:
    """NaN in other slots, in rows without an adapter, and in y around the rows that are added to."""
    layer, _ = loaded(make, "one slice", 3, dtype)
    in_features, outs = SHAPES["one slice"]
    poison = adapter(in_features, outs, 8, dtype)
    for matrix in (poison.slices[0].a, poison.slices[0].b):  # type: ignore[union-attr]
        matrix.fill_(torch.nan)
    layer.load(1, poison)
    x, y = batch("one slice", 6, dtype)
    x[1::2], y[1::2] = torch.nan, torch.nan
    layer.add(y, x, lora.plan_rows([0, -1, 2, -1, 0, -1]))
    assert not y[0::2].isnan().any()
    assert y[1::2].isnan().all()


def test_a_nan_in_an_adapter_stays_a_nan_in_its_own_rows(make: Make) -> None:
    layer, _ = loaded(make, "one slice", 2, torch.bfloat16)
    poison = adapter(*SHAPES["one slice"], 8, torch.bfloat16)
    poison.slices[0].a.fill_(torch.nan)  # type: ignore[union-attr]
    layer.load(1, poison)
    x, y = batch("one slice", 4, torch.bfloat16)
    layer.add(y, x, lora.plan_rows([1, 0, 1, -1]))
    assert y[[0, 2]].isnan().all()
    assert not y[[1, 3]].isnan().any()


def test_a_slice_that_an_adapter_leaves_alone_keeps_its_bits(make: Make) -> None:
    in_features, outs = SHAPES["q/k/v"]
    layer = make(in_features, outs, 1, torch.float32)
    q, _, v = adapter(in_features, outs, 8, torch.float32).slices
    layer.load(0, lora.LayerWeights((q, None, v)))
    x, y = batch("q/k/v", 5, torch.float32)
    before = y.clone()
    layer.add(y, x, lora.plan_rows([0] * 5))
    assert torch.equal(y[:, 48:64], before[:, 48:64])
    assert y[:, :48].ne(before[:, :48]).all()
    assert y[:, 64:].ne(before[:, 64:]).all()


def test_a_slot_can_be_loaded_again_and_emptied(make: Make) -> None:
    in_features, outs = SHAPES["one slice"]
    layer = make(in_features, outs, 2, torch.float32)
    assert layer.is_empty
    first, second = (adapter(in_features, outs, rank, torch.float32) for rank in (8, 33))
    x, y = batch("one slice", 3, torch.float32)
    for weights in (first, second):
        layer.load(1, weights)
        result = y.clone()
        layer.add(result, x, lora.plan_rows([1, 1, 1]))
        expected = add_lora_reference(y, x, outs, [None, weights], [1, 1, 1])
        assert torch.allclose(result, expected, atol=1e-4)
    layer.unload(1)
    layer.unload(0)
    assert layer.is_empty
    result = y.clone()
    layer.add(result, x, lora.plan_rows([1, 1, 1]))
    assert torch.equal(result, y)


def test_rows_after_the_plan_have_no_adapter(make: Make) -> None:
    layer, _ = loaded(make, "one slice", 1, torch.float32)
    x, y = batch("one slice", 4, torch.float32)
    before = y.clone()
    layer.add(y, x, lora.plan_rows([0, 0]))
    assert y[:2].ne(before[:2]).all()
    assert torch.equal(y[2:], before[2:])


def test_rows_may_be_views_of_wider_tensors(make: Make) -> None:
    layer, _ = loaded(make, "one slice", 2, torch.bfloat16)
    wide_x, wide_y = torch.randn(9, 200).bfloat16(), torch.randn(9, 99).bfloat16()
    x, y = wide_x[:, 8:104], wide_y[:, 5:45]
    plain, before = y.clone(), wide_y.clone()
    plan = lora.plan_rows([0, 1, 0, -1, 1, 1, 0, 0, -1])
    layer.add(plain, x.clone(), plan)
    layer.add(y, x, plan)
    assert torch.equal(y, plain)
    assert torch.equal(wide_y[:, :5], before[:, :5])
    assert torch.equal(wide_y[:, 45:], before[:, 45:])


def test_hidden_values_keep_more_than_bf16(make: Make) -> None:
    """Two ranks that nearly cancel: rounding the hidden values to bf16 would lose their difference."""
    layer = make(64, (16,), 1, torch.bfloat16)
    a = torch.zeros(2, 64, dtype=torch.bfloat16)
    a[:, 0], a[0, 1] = 1.0, 2**-9
    b = torch.tensor([[1.0, -1.0]] * 16, dtype=torch.bfloat16)
    layer.load(0, lora.LayerWeights((lora.SliceWeights(a, b),)))
    y = torch.zeros(1, 16, dtype=torch.bfloat16)
    layer.add(y, torch.ones(1, 64, dtype=torch.bfloat16), lora.plan_rows([0]))
    assert torch.equal(y, torch.full_like(y, 2**-9))


def test_weights_that_do_not_fit_the_layer_are_refused_with_both_sizes(make: Make) -> None:
    layer = make(64, (48, 16), 1, torch.float32)
    with pytest.raises(ValueError, match="slice 1 maps 64 to 48 features; the layer maps 64 to 16"):
        layer.load(0, adapter(64, (48, 48), 8, torch.float32))
    with pytest.raises(ValueError, match="1 slices for a layer of 2"):
        layer.load(0, adapter(64, (48,), 8, torch.float32))


def test_matrices_of_two_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="must be matrices of one rank"):
        lora.SliceWeights(torch.zeros(8, 64), torch.zeros(64, 4))
