"""A batch's plan in device memory, filled once a step; the kernels of every layer read it there.

Its buffers never move and all counts are in them, so a captured CUDA graph serves whatever mix of
adapters the plan holds when it is replayed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import torch

from stackserve_kernels.lora.plan import BatchPlan

BLOCK_ROWS = 32
"""Rows of one block: always the same, because a row's bits may not depend on how many share its tile."""

SPLIT_ROWS = 256
"""Up to this many rows with an adapter, several programs share one sum over the input features."""

MAX_PARTS = 8
"""Most programs that share one sum, each with an area of the scratch for its part."""

STAGES = 3
"""Host copies of the table: so many steps may be under way before `fill` waits for the oldest."""


@dataclass(frozen=True)
class _Stage:
    lines: torch.Tensor
    copied: Any  # torch.cuda.Event, or None on a CPU


class DevicePlan:
    """A plan of at most `max_rows` rows, and the scratch that all layers use in turn.

    `width` is the largest `TritonLayer.width` of the layers. All that uses one plan must run on one
    stream, or be ordered by events.

    table int32 [1 + max_rows, 4]: line 0 has the rows with an adapter and the number of blocks; line
    1 + i has order[i], then of block i its slot, its first position in order, and its rows. What a
    larger batch left beyond these counts is never read.
    hidden float32: x Aᵀ of [part, position in order, width], never zeroed.
    """

    def __init__(self, max_rows: int, width: int, device: torch.device | str) -> None:
        self.max_rows, self.width, self.device = max_rows, width, torch.device(device)
        self.num_rows = 0
        areas = max(max_rows, MAX_PARTS * min(max_rows, SPLIT_ROWS))
        self.hidden = torch.empty(areas * width, dtype=torch.float32, device=device)
        self.table = torch.zeros(1 + max_rows, 4, dtype=torch.int32, device=device)
        stages = [_make_stage(1 + max_rows, self.device) for _ in range(STAGES)]
        self._stages = cycle(stages)

    def fill(self, plan: BatchPlan) -> None:
        """Put `plan` in the buffers, in the order of the current stream, without waiting for it."""
        if len(plan.order) > self.max_rows:
            raise ValueError(
                f"{len(plan.order)} rows with an adapter; this plan holds {self.max_rows}"
            )
        stage = next(self._stages)
        if stage.copied is not None:
            stage.copied.synchronize()
        lines = 1 + len(plan.order)
        _write(stage.lines.numpy(), plan)
        self.table[:lines].copy_(stage.lines[:lines], non_blocking=True)
        if stage.copied is not None:
            stage.copied.record()
        self.num_rows = plan.num_rows


def row_blocks(plan: BatchPlan) -> np.ndarray:
    """[blocks, 3] int32: slot, first position in order, rows (at most `BLOCK_ROWS`) of each block."""
    blocks_of = -(-np.diff(plan.starts) // BLOCK_ROWS)
    segment = np.repeat(np.arange(len(blocks_of)), blocks_of)
    before = np.cumsum(blocks_of) - blocks_of
    first = plan.starts[segment] + (np.arange(len(segment)) - before[segment]) * BLOCK_ROWS
    count = np.minimum(plan.starts[segment + 1] - first, BLOCK_ROWS)
    return np.stack([plan.segment_slots[segment], first, count], axis=1).astype(np.int32)


def _write(lines: np.ndarray, plan: BatchPlan) -> None:
    blocks = row_blocks(plan)
    lines[0] = (len(plan.order), len(blocks), 0, 0)
    lines[1 : 1 + len(plan.order), 0] = plan.order
    lines[1 : 1 + len(blocks), 1:] = blocks


def _make_stage(lines: int, device: torch.device) -> _Stage:
    on_cuda = device.type == "cuda"
    memory = torch.zeros(lines, 4, dtype=torch.int32, pin_memory=on_cuda)
    return _Stage(memory, torch.cuda.Event() if on_cuda else None)
