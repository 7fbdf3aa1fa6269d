"""A plan gives every row with an adapter to exactly one segment, and the others to none."""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from stackserve_kernels.lora import NO_ADAPTER, BatchPlan, plan_rows

batches = st.lists(st.integers(NO_ADAPTER, 6), max_size=64)


def rows_of(plan: BatchPlan) -> dict[int, list[int]]:
    """Slot → rows, whatever form a segment keeps them in."""
    everything = torch.arange(plan.num_rows)
    return {segment.slot: everything[segment.rows].tolist() for segment in plan.segments}


@given(batches)
def test_each_row_is_in_the_segment_of_its_slot_in_order(slots: list[int]) -> None:
    wanted = {
        slot: [row for row, s in enumerate(slots) if s == slot]
        for slot in set(slots) - {NO_ADAPTER}
    }
    plan = plan_rows(slots)
    assert rows_of(plan) == wanted
    assert [segment.count for segment in plan.segments] == [len(wanted[k]) for k in sorted(wanted)]


@given(batches)
def test_the_order_holds_each_row_with_an_adapter_once_and_segments_cover_it(
    slots: list[int],
) -> None:
    plan = plan_rows(slots)
    assert sorted(plan.order.tolist()) == [row for row, slot in enumerate(slots) if slot >= 0]
    assert plan.starts[0] == 0
    assert plan.starts[-1] == len(plan.order)
    assert (np.diff(plan.starts) > 0).all()
    assert (np.diff(plan.segment_slots) > 0).all()
    assert plan.is_empty == (max(slots, default=-1) < 0)
    for slot, first, last in zip(plan.segment_slots, plan.starts, plan.starts[1:], strict=False):
        assert {slots[row] for row in plan.order[first:last]} == {slot}


@given(batches)
def test_c_code_finds_the_arrays_of_a_plan_at_its_address(slots: list[int]) -> None:
    plan = plan_rows(slots)
    fields = (ctypes.c_uint64 * 4).from_address(plan.address)
    arrays = (plan.segment_slots, plan.starts, plan.order)
    assert list(fields) == [len(plan.segment_slots), *(array.ctypes.data for array in arrays)]


@given(batches)
def test_neighbouring_rows_are_a_slice_so_that_no_copy_is_made(slots: list[int]) -> None:
    for segment in plan_rows(slots).segments:
        rows = [row for row, slot in enumerate(slots) if slot == segment.slot]
        neighbours = rows == list(range(rows[0], rows[-1] + 1))
        assert isinstance(segment.rows, slice) == neighbours


@given(batches, st.data())
def test_a_window_is_the_plan_of_its_rows(slots: list[int], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(slots)))
    count = data.draw(st.integers(0, len(slots) - first))
    window = plan_rows(slots).window(first, count)
    assert rows_of(window) == rows_of(plan_rows(slots[first : first + count]))


def test_a_plan_can_be_made_of_an_array() -> None:
    assert rows_of(plan_rows(np.array([2, -1, 2]))) == {2: [0, 2]}
