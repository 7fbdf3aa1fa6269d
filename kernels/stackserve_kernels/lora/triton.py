"""LoRA of one layer on NVIDIA GPUs: exact ranks, two launches whatever the mix, the same bits in any company.

Imports triton, so nothing else of this package may import it at start.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import torch

from stackserve_kernels.lora.device_plan import (
    BLOCK_ROWS,
    MAX_PARTS,
    SPLIT_ROWS,
    DevicePlan,
)
from stackserve_kernels.lora.memory import WeightMemory
from stackserve_kernels.lora.plan import BatchPlan
from stackserve_kernels.lora.triton_kernels import expand, shrink
from stackserve_kernels.lora.weights import LayerWeights, SliceWeights, check_weights

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
IN_TILE, OUT_TILE = 128, 128
SHRINK_RANKS, EXPAND_RANKS = 32, 16
"""Ranks of one tile. Those past an adapter's own rank are masked: not read, not written."""

PROGRAMS_PER_PROCESSOR = 4
PROGRAMS_IN_INTERPRETER = 3


class TritonLayer:
    """The adapters of one layer in device memory, and the op over a batch that mixes them.

    A slot's weights lie in allocations of their own; the kernels find them through a table of
    addresses. `load`, `unload` and `add` take effect in the order of the current stream.

    With `reserve`, memory for every slot at `max_rank` is taken now, and `load` takes none: for an
    engine that measures once what it may give to other things.
    """

    def __init__(
        self,
        in_features: int,
        out_features: Sequence[int],
        slots: int,
        dtype: torch.dtype,
        device: torch.device | str,
        *,
        max_rank: int = 512,
        reserve: bool = False,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"{dtype} is not one of {', '.join(map(str, DTYPES))}")
        self.in_features, self.out_features = in_features, tuple(out_features)
        self.slots, self.dtype, self.device = slots, dtype, torch.device(device)
        self.largest_rank, self.max_rank = max_rank, _round_up(max_rank, 16)
        self._weights: dict[int, list[torch.Tensor]] = {}
        self._tiles_of: dict[int, int] = {}
        entries = (slots, len(self.out_features), 3)
        self._entries = torch.zeros(entries, dtype=torch.int64, device=device)
        self._scales = torch.zeros(slots, dtype=torch.float32, device=device)
        self._most_tiles = torch.zeros(1, dtype=torch.int32, device=device)
        tiles = _column_tiles(self.out_features)
        self._columns = torch.tensor(tiles, dtype=torch.int32, device=device)
        self._programs = _programs(self.device)
        self.constants = self._constants()
        self._own_plan: tuple[BatchPlan, DevicePlan] | None = None
        self._room = [self._take(slots, out) for out in self.out_features] if reserve else None

    @property
    def width(self) -> int:
        """Floats of scratch that a row takes; a `DevicePlan` needs as many."""
        return len(self.out_features) * self.max_rank

    @property
    def is_empty(self) -> bool:
        """No slot has weights."""
        return not self._weights

    def prepare(self, weights: LayerWeights, memory: WeightMemory | None = None) -> LayerWeights:
        """See `LoraLayer.prepare`: Bᵀ laid out in lines, and pages that the device may read itself.
        `memory` is not used.
        """
        slices = check_weights(weights, self.in_features, self.out_features)
        ranks = [0 if each is None else each.rank for each in slices]
        if max(ranks) > self.largest_rank:
            raise ValueError(f"rank {max(ranks)} is over this layer's {self.largest_rank}")
        prepared = (each and self._in_host_memory(each) for each in slices)
        return LayerWeights(tuple(prepared), weights.scale)

    def place(self, slot: int, prepared: LayerWeights) -> None:
        """See `LoraLayer.place`. The copies to the device follow the current stream."""
        self._check_slot(slot)
        held: list[torch.Tensor] = []
        entries = []
        for number, each in enumerate(prepared.slices):
            pair = None if each is None or each.rank == 0 else self._copy(slot, number, each)
            held.extend(pair or ())
            entries.append(
                [pair[0].data_ptr(), pair[1].data_ptr(), each.rank] if pair and each else [0, 0, 0]
            )
        self._write(slot, entries, prepared.scale)
        self._weights[slot] = held

    def load(self, slot: int, weights: LayerWeights, memory: WeightMemory | None = None) -> None:
        """See `LoraLayer.load`."""
        self._check_slot(slot)
        self.place(slot, self.prepare(weights, memory))

    def unload(self, slot: int) -> None:
        """Free the weights of `slot`; its rows then get nothing."""
        self._check_slot(slot)
        self._write(slot, [[0, 0, 0]] * len(self.out_features), 0.0)
        self._weights.pop(slot, None)

    def add(self, y: torch.Tensor, x: torch.Tensor, plan: BatchPlan) -> None:
        """y[row, slice] += scale · (x[row] Aᵀ) Bᵀ, in place; see `LoraLayer`.

        Fills a `DevicePlan` of this layer's own. Many layers of one step share one: `add_planned`.
        """
        if self._own_plan is None or self._own_plan[1].max_rows < len(plan.order):
            rows = max(BLOCK_ROWS, 2 * len(plan.order))
            self._own_plan = (plan, DevicePlan(rows, self.width, self.device))
            self._own_plan[1].fill(plan)
        elif self._own_plan[0] is not plan:
            self._own_plan[1].fill(plan)
            self._own_plan = (plan, self._own_plan[1])
        self.add_planned(y, x, self._own_plan[1])

    def add_planned(self, y: torch.Tensor, x: torch.Tensor, plan: DevicePlan) -> None:
        """`add` for the batch that `plan` holds when the kernels run. Two launches, no allocation.

        x [rows, in], y [rows, sum of out]; rows past the plan's have no adapter. May be captured in a
        CUDA graph; the graph then serves later contents of `plan` and of the slots.
        """
        self._check_batch(y, x, plan)
        grid = (self._programs,)
        shrink[grid](
            x, x.stride(0), plan.table, self._entries, self._most_tiles, plan.hidden,
            **self.constants["shrink"], num_warps=4, num_stages=3,
        )  # fmt: skip
        expand[grid](
            y, y.stride(0), plan.table, self._entries, self._scales, self._columns,
            len(self._columns), plan.hidden,
            **self.constants["expand"], num_warps=4, num_stages=2,
        )  # fmt: skip

    def _constants(self) -> dict[str, dict[str, int]]:
        """By kernel, what its code is compiled for; nothing of it depends on a batch or an adapter."""
        chunk = _round_up(-(-self.in_features // MAX_PARTS), IN_TILE)
        both = {
            "SLICES": len(self.out_features),
            "MAX_RANK": self.max_rank,
            "ROWS": BLOCK_ROWS,
            "SPLIT_ROWS": SPLIT_ROWS,
            "WIDEN": self.device.type == "cpu",
        }
        sums = {"IN": self.in_features, "CHUNK": chunk, "RANKS": SHRINK_RANKS, "COLUMNS": IN_TILE}
        adds = {
            "CHUNKS": -(-self.in_features // chunk),
            "ALIGN": gcd(16, *self.out_features),
            "RANKS": EXPAND_RANKS,
            "COLUMNS": OUT_TILE,
        }
        return {"shrink": both | sums, "expand": both | adds}

    def _in_host_memory(self, weights: SliceWeights) -> SliceWeights:
        """Of this layer's type, B stored as Bᵀ; pinned when the device is a GPU."""
        pin = self.device.type == "cuda"
        a, b = (
            torch.empty(each.shape, dtype=self.dtype, pin_memory=pin).copy_(each)
            for each in (weights.a, weights.b.T)
        )
        return SliceWeights(a, b.T)

    def _copy(
        self, slot: int, number: int, weights: SliceWeights
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A as it is, and Bᵀ with its lines rounded up, so that every line starts aligned."""
        rank, out = weights.rank, weights.b.shape[0]
        rooms, place = (
            (self._take(1, out, rank), 0) if self._room is None else (self._room[number], slot)
        )
        a, b = (room[place] for room in rooms)
        a, b = a[: rank * self.in_features].view(rank, -1), b[:rank]
        b[:, :out].copy_(weights.b.T, non_blocking=True)
        return a.copy_(weights.a, non_blocking=True), b

    def _take(
        self, slots: int, out: int, rank: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Zeros for so many slots of a slice: flat A, every slot aligned, and Bᵀ."""
        rank = self.largest_rank if rank is None else rank
        sizes = (_round_up(rank * self.in_features, 16),), (rank, _round_up(out, 16))
        a, b = (torch.zeros(slots, *size, dtype=self.dtype, device=self.device) for size in sizes)
        return a, b

    def _write(self, slot: int, entries: list[list[int]], scale: float) -> None:
        self._tiles_of[slot] = -(-max(rank for _, _, rank in entries) // SHRINK_RANKS)
        self._entries[slot].copy_(torch.tensor(entries, dtype=torch.int64))
        self._scales[slot] = scale
        self._most_tiles.fill_(max(self._tiles_of.values()))

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.slots:
            raise ValueError(f"slot {slot} of a layer with {self.slots}")

    def _check_batch(self, y: torch.Tensor, x: torch.Tensor, plan: DevicePlan) -> None:
        rows, out = x.shape[0], sum(self.out_features)
        if x.shape != (rows, self.in_features) or y.shape != (rows, out):
            raise ValueError(
                f"x {list(x.shape)} and y {list(y.shape)} for a layer of {self.in_features} to {out}"
            )
        if {x.dtype, y.dtype} != {self.dtype}:
            raise ValueError(f"x is {x.dtype} and y is {y.dtype}; this layer is {self.dtype}")
        if x.stride(1) != 1 or y.stride(1) != 1:
            raise ValueError("the features of a row must be neighbours in memory")
        if plan.num_rows > rows or plan.width < self.width:
            raise ValueError(
                f"a plan of {plan.num_rows} rows and width {plan.width} for a batch of {rows} rows "
                f"and width {self.width}"
            )


def _column_tiles(out_features: Sequence[int]) -> list[list[int]]:
    """[slice, first column in the slice, columns of the slice, first column in y] of each tile."""
    tiles, before = [], 0
    for number, out in enumerate(out_features):
        tiles += [[number, first, out, before + first] for first in range(0, out, OUT_TILE)]
        before += out
    return tiles


def _programs(device: torch.device) -> int:
    if device.type != "cuda":
        return PROGRAMS_IN_INTERPRETER
    return PROGRAMS_PER_PROCESSOR * int(
        torch.cuda.get_device_properties(device).multi_processor_count
    )


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
