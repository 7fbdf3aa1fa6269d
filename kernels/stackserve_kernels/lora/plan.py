"""Which rows of a batch belong to which adapter slot: computed once a step, used by every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

NO_ADAPTER = -1
"""Slot of a row that gets the base model alone."""


@dataclass(frozen=True)
class Segment:
    """The rows of one adapter slot.

    `rows` indexes dimension 0: a slice where the rows are neighbours (a view, no copy), else an int64
    tensor in ascending order.
    """

    slot: int
    rows: slice | torch.Tensor
    count: int


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """The rows of a batch, sorted by slot. Segment i is `order[starts[i] : starts[i + 1]]`.

    slots [rows] int64, the slot of each row or `NO_ADAPTER`; order int32, the rows that have an
    adapter, ascending inside a segment; segment_slots [segments] int32, ascending; starts
    [segments + 1] int32.
    """

    slots: np.ndarray
    order: np.ndarray
    segment_slots: np.ndarray
    starts: np.ndarray

    @property
    def num_rows(self) -> int:
        return len(self.slots)

    @property
    def is_empty(self) -> bool:
        """No row has an adapter."""
        return len(self.order) == 0

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The segments as torch indexes rows."""
        bounds = zip(self.segment_slots, self.starts[:-1], self.starts[1:], strict=True)
        return tuple(_segment(int(slot), self.order[start:end]) for slot, start, end in bounds)

    @cached_property
    def address(self) -> int:
        """Where this plan lies for C code: `Plan` of csrc/lora.h."""
        return self._fields.ctypes.data

    @cached_property
    def _fields(self) -> np.ndarray:
        arrays = (self.segment_slots, self.starts, self.order)
        return np.array([len(self.segment_slots), *(a.ctypes.data for a in arrays)], np.uint64)

    def window(self, first: int, count: int) -> BatchPlan:
        """The plan of `count` neighbouring rows, the first of which is row `first` of this batch."""
        return plan_rows(self.slots[first : first + count])


def plan_rows(slots: Sequence[int] | np.ndarray) -> BatchPlan:
    """Sort the rows of a batch by slot; `slots[i]` is the slot of row i, or `NO_ADAPTER`.

    Costs O(rows log rows), whatever the number of layers or slots.
    """
    by_row = np.asarray(slots, dtype=np.int64)
    order = np.argsort(by_row, kind="stable")
    order = order[np.searchsorted(by_row[order], 0) :]
    used, starts = np.unique(by_row[order], return_index=True)
    return BatchPlan(
        by_row,
        order.astype(np.int32),
        used.astype(np.int32),
        np.append(starts, len(order)).astype(np.int32),
    )


def _segment(slot: int, rows: np.ndarray) -> Segment:
    first, last, count = int(rows[0]), int(rows[-1]), len(rows)
    if last - first + 1 == count:
        return Segment(slot, slice(first, last + 1), count)
    return Segment(slot, torch.from_numpy(rows.astype(np.int64)), count)
