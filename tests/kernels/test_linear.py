"""A base layer on AMX: exact, in one order, and the same bits with adapters as in two steps."""

from __future__ import annotations

import pytest
import torch

from stackserve_kernels import lora

SHAPES = {"one slice": (96, (48,)), "q/k/v": (64, (64, 16, 32)), "odd tiles": (32, (16,))}
ROWS = (1, 2, 15, 16, 17, 31, 32, 33, 64, 100, 257, 700)


@pytest.fixture(autouse=True)
def _amx() -> None:
    torch.manual_seed(0)
    if not lora.AmxLinear.serves(torch.zeros(16, 32, dtype=torch.bfloat16)):
        pytest.skip("this CPU has no AMX, or there was no compiler")


def layer(shape: str) -> tuple[lora.AmxLinear, torch.Tensor]:
    in_features, outs = SHAPES[shape]
    weight = (torch.randn(sum(outs), in_features) / in_features**0.5).bfloat16()
    return lora.AmxLinear(weight, lora.WeightMemory()), weight


def adapters(shape: str, slots: int) -> lora.CpuLayer:
    in_features, outs = SHAPES[shape]
    made = lora.CpuLayer(in_features, outs, slots, torch.bfloat16)
    for slot in range(slots):
        rank = (1, 8, 16, 33, 64)[slot % 5]
        slices = tuple(
            lora.SliceWeights(
                torch.randn(rank, in_features).bfloat16() / 8, torch.randn(out, rank).bfloat16()
            )
            for out in outs
        )
        made.load(slot, lora.LayerWeights(slices))
    return made


@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_is_exact_to_one_rounding_with_a_bias_of_any_type(shape: str) -> None:
    linear, weight = layer(shape)
    bias = torch.randn(weight.shape[0])
    for rows in ROWS:
        x = torch.randn(rows, weight.shape[1]).bfloat16()
        exact = x.double() @ weight.double().T
        assert torch.allclose(linear.multiply(x).double(), exact, rtol=2**-8, atol=1e-5)
        for given in (bias, bias.bfloat16()):
            y = linear.multiply(x, given)
            assert torch.allclose(y.double(), exact + given.double(), rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_has_the_same_bits_in_any_number_of_rows(shape: str) -> None:
    linear, weight = layer(shape)
    x = torch.randn(max(ROWS), weight.shape[1]).bfloat16()
    together = linear.multiply(x)
    for rows in ROWS:
        assert torch.equal(linear.multiply(x[:rows]), together[:rows]), rows
        assert torch.equal(linear.multiply(x[-rows:]), together[-rows:]), rows


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("slots", [1, 5, 32])
def test_adapters_in_the_same_pass_give_the_bits_of_a_second_one(shape: str, slots: int) -> None:
    linear, weight = layer(shape)
    loaded = adapters(shape, slots)
    for rows in ROWS:
        x = torch.randn(rows, weight.shape[1]).bfloat16()
        for assigned in (
            [row % (slots + 1) - 1 for row in range(rows)],
            sorted(row % (slots + 1) - 1 for row in range(rows)),
            [0] * rows,
            [-1] * rows,
        ):
            plan = lora.plan_rows(assigned)
            two_steps = linear.multiply(x)
            loaded.add(two_steps, x, plan)
            assert torch.equal(linear.multiply(x, None, loaded, plan), two_steps), rows


def test_rows_may_be_views_of_a_wider_tensor() -> None:
    linear, weight = layer("one slice")
    wide = torch.randn(40, 200).bfloat16()
    x = wide[:, 8 : 8 + weight.shape[1]]
    assert torch.equal(linear.multiply(x), linear.multiply(x.clone()))


def test_adapters_whose_slices_are_not_whole_blocks_are_left_to_a_second_pass() -> None:
    linear = lora.AmxLinear(torch.zeros(128, 32, dtype=torch.bfloat16), lora.WeightMemory())
    for outs, taken in (((64, 64), True), ((24, 104), False), ((64,), False)):
        assert linear.takes(lora.CpuLayer(32, outs, 1, torch.bfloat16)) == taken


def test_no_rows_give_no_rows() -> None:
    linear, weight = layer("one slice")
    assert linear.multiply(torch.zeros(0, weight.shape[1]).bfloat16()).shape == (0, weight.shape[0])


@pytest.mark.parametrize(
    ("out", "in_features", "dtype"),
    [(17, 64, torch.bfloat16), (16, 48, torch.bfloat16), (16, 64, torch.float32)],
)
def test_other_layers_are_refused(out: int, in_features: int, dtype: torch.dtype) -> None:
    weight = torch.zeros(out, in_features, dtype=dtype)
    assert not lora.AmxLinear.serves(weight)
    with pytest.raises(ValueError, match="no AMX product for a weight"):
        lora.AmxLinear(weight, lora.WeightMemory())


def test_rows_of_another_type_are_refused() -> None:
    linear, weight = layer("one slice")
    with pytest.raises(TypeError, match=r"rows of torch\.float32"):
        linear.multiply(torch.zeros(1, weight.shape[1]))
