"""The operators over stacked weights: halves of the LoRA op, and whole matrices."""

from __future__ import annotations

import torch

from stackserve_kernels import lora
from stackserve_kernels.lora.reference import add_lora_reference

IN, SLICES = 48, (32, 16, 16)


def stacked(slots: int, rank: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    torch.manual_seed(0)
    a = [torch.randn(slots, rank, IN) for _ in SLICES]
    return a, [torch.randn(slots, out, rank) for out in SLICES]


def test_stacked_weights_give_what_the_reference_gives() -> None:
    a, b = stacked(3, 8)
    x, y, slots = torch.randn(9, IN), torch.randn(9, sum(SLICES)), [0, -1, 1, 2, 1, -1, 0, 0, 2]
    adapters = [
        lora.LayerWeights(
            tuple(lora.SliceWeights(one[slot], two[slot]) for one, two in zip(a, b, strict=True)),
            0.25,
        )
        for slot in range(3)
    ]
    expected = add_lora_reference(y, x, SLICES, adapters, slots)
    lora.add_stacked(y, x, a, b, 0.25, lora.plan_rows(slots))
    assert torch.allclose(y, expected, atol=1e-4)


def test_shrink_then_expand_equals_the_whole() -> None:
    a, b = stacked(3, 8)
    x, slots = torch.randn(9, IN), [0, -1, 1, 2, 1, -1, 0, 0, 2]
    plan = lora.plan_rows(slots)
    whole = torch.randn(9, 5 + sum(SLICES))
    parts = whole.clone()

    lora.add_stacked(whole[:, 5:], x, a, b, 0.25, plan)
    buffers = [torch.full((9, 8), torch.nan) for _ in SLICES]
    lora.add_shrink(buffers, x, a, 0.25, plan)
    lora.add_expand(parts, buffers, b, 5, plan)

    assert torch.allclose(parts, whole, atol=1e-5)
    assert buffers[0][1].isnan().all()


def test_replace_rows_gives_a_row_the_whole_matrix_of_its_slot_where_it_has_one() -> None:
    weight, bias = torch.randn(3, 7, IN), torch.randn(3, 7)
    enabled = torch.tensor([True, False, True])
    x, y, slots = torch.randn(4, IN), torch.randn(4, 7), [0, 1, -1, 2]
    before = y.clone()

    lora.replace_rows(y, x, weight, bias, enabled, lora.plan_rows(slots))

    assert torch.allclose(y[0], weight[0] @ x[0] + bias[0], atol=1e-5)
    assert torch.allclose(y[3], weight[2] @ x[3] + bias[2], atol=1e-5)
    assert torch.equal(y[1:3], before[1:3])
