"""The grouped operators against the reference, and the rows that they may not touch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from stackserve_kernels import lora
from stackserve_kernels.lora.reference import add_lora_reference

IN, SLICES = 48, (32, 16, 16)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}

Popularity = Callable[[int, int], Sequence[int]]
POPULARITY: dict[str, Popularity] = {
    "base only": lambda rows, slots: [-1] * rows,
    "one hot": lambda rows, slots: [0] * rows,
    "uniform with base rows": lambda rows, slots: [row % (slots + 1) - 1 for row in range(rows)],
    "blocks with base rows": lambda rows, slots: sorted(row % (slots + 1) - 1 for row in range(rows)),
    "skewed": lambda rows, slots: [min(slots - 1, (row * row) % (2 * slots)) for row in range(rows)],
}  # fmt: skip


def stacked(
    slots: int, rank: int, dtype: torch.dtype
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    a = [torch.randn(slots, rank, IN).to(dtype) for _ in SLICES]
    b = [torch.randn(slots, out, rank).to(dtype) for out in SLICES]
    return a, b


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("popularity", POPULARITY)
@pytest.mark.parametrize("rows", [0, 1, 3, 16, 257])
@pytest.mark.parametrize(("slots", "rank"), [(1, 1), (5, 8), (32, 33)])
def test_add_lora_equals_the_reference_and_leaves_base_rows_bit_for_bit(
    dtype: torch.dtype, popularity: str, rows: int, slots: int, rank: int
) -> None:
    assigned = POPULARITY[popularity](rows, slots)
    x = torch.randn(rows, IN).to(dtype)
    y = torch.randn(rows, sum(SLICES)).to(dtype)
    a, b = stacked(slots, rank, dtype)
    expected = add_lora_reference(y, x, a, b, 0.5, assigned)
    before = y.clone()

    lora.add_lora(y, x, a, b, 0.5, lora.plan_rows(assigned))

    scale = expected.float().abs().max().item() if rows else 1.0
    assert torch.allclose(y.float(), expected.float(), rtol=0, atol=TOLERANCE[dtype] * scale)
    base = [row for row, slot in enumerate(assigned) if slot < 0]
    assert torch.equal(y[base], before[base])


def test_slots_that_the_batch_does_not_use_are_never_read() -> None:
    a, b = stacked(4, 8, torch.float32)
    for matrix in (*a, *b):
        matrix[1:] = torch.nan
    y = torch.zeros(6, sum(SLICES))
    lora.add_lora(y, torch.randn(6, IN), a, b, 1.0, lora.plan_rows([0, -1, 0, -1, 0, -1]))
    assert not y.isnan().any()


def test_rows_after_the_plan_have_no_adapter() -> None:
    a, b = stacked(1, 8, torch.float32)
    y = torch.zeros(4, sum(SLICES))
    lora.add_lora(y, torch.randn(4, IN), a, b, 1.0, lora.plan_rows([0, 0]))
    assert y[:2].ne(0).all()
    assert y[2:].eq(0).all()


def test_the_same_batch_twice_gives_the_same_bits() -> None:
    a, b = stacked(5, 8, torch.bfloat16)
    x = torch.randn(64, IN).to(torch.bfloat16)
    plan = lora.plan_rows([row % 5 for row in range(64)])
    one, two = (torch.zeros(64, sum(SLICES), dtype=torch.bfloat16) for _ in range(2))
    lora.add_lora(one, x, a, b, 1.0, plan)
    lora.add_lora(two, x, a, b, 1.0, plan)
    assert torch.equal(one, two)


def test_a_row_has_the_same_bits_alone_and_in_any_company() -> None:
    a, b = stacked(5, 8, torch.bfloat16)
    x = torch.randn(64, IN).to(torch.bfloat16)
    together = torch.zeros(64, sum(SLICES), dtype=torch.bfloat16)
    slots = [row * row % 5 for row in range(64)]
    lora.add_lora(together, x, a, b, 1.0, lora.plan_rows(slots))
    for row, slot in enumerate(slots):
        alone = torch.zeros(1, sum(SLICES), dtype=torch.bfloat16)
        lora.add_lora(alone, x[row : row + 1], a, b, 1.0, lora.plan_rows([slot]))
        assert torch.equal(alone[0], together[row])


def test_shrink_then_expand_equals_add_lora() -> None:
    a, b = stacked(3, 8, torch.float32)
    x, slots = torch.randn(9, IN), [0, -1, 1, 2, 1, -1, 0, 0, 2]
    plan = lora.plan_rows(slots)
    whole = torch.randn(9, 5 + sum(SLICES))
    parts = whole.clone()

    lora.add_lora(whole[:, 5:], x, a, b, 0.25, plan)
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
