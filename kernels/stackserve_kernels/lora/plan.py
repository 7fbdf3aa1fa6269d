"""Which rows of a batch belong to which adapter slot: computed once a step, used by every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """One segment for each slot that the batch uses, in ascending order of slots."""

    slots: np.ndarray
    segments: tuple[Segment, ...]

    @property
    def num_rows(self) -> int:
        return len(self.slots)

    def window(self, first: int, count: int) -> BatchPlan:
        """The plan of `count` neighbouring rows, the first of which is row `first` of this batch."""
        return plan_rows(self.slots[first : first + count])


def plan_rows(slots: Sequence[int] | np.ndarray) -> BatchPlan:
    """Sort the rows of a batch by slot; `slots[i]` is the slot of row i, or `NO_ADAPTER`.

    Costs O(rows log rows), whatever the number of layers or slots.
    """
    by_row = np.asarray(slots, dtype=np.int64)
    order = np.argsort(by_row, kind="stable")
    used, starts = np.unique(by_row[order], return_index=True)
    bounds = np.append(starts, len(order))
    segments = tuple(
        _segment(int(slot), order[start:end])
        for slot, start, end in zip(used, bounds[:-1], bounds[1:], strict=True)
        if slot != NO_ADAPTER
    )
    return BatchPlan(by_row, segments)


def _segment(slot: int, rows: np.ndarray) -> Segment:
    first, last, count = int(rows[0]), int(rows[-1]), len(rows)
    if last - first + 1 == count:
        return Segment(slot, slice(first, last + 1), count)
    return Segment(slot, torch.from_numpy(rows.copy()), count)
