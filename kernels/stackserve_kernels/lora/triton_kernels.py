"""The two Triton kernels of a LoRA layer: shrink (x Aᵀ, in parts) and expand (y += scale · hidden Bᵀ).

Both have a fixed grid whose programs loop over work items; how many there are is read on the device.
No output is zeroed and nothing is added atomically.

The sum over the input features is always taken in the same order: each chunk of `CHUNK` columns from
zero, then the chunks one after the other. In a small batch each chunk is a program's own (a part), and
expand adds the parts up; in a large one a program does all chunks. Both give the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def shrink(
    x,  # [rows, IN]
    x_stride,
    table,  # DevicePlan.table
    entries,  # int64 [slots, SLICES, 3]: address of A [rank, IN], address of B, rank
    most_tiles,  # int32 [1]: rank tiles of the largest adapter
    hidden,  # float32 [part, position, SLICES · MAX_RANK]
    IN: tl.constexpr,
    CHUNK: tl.constexpr,
    SLICES: tl.constexpr,
    MAX_RANK: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPLIT_ROWS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """hidden[part, position, slice · MAX_RANK + r] = Σ x[order[position], k] · A[r, k] over a part's k."""
    CHUNKS: tl.constexpr = (IN + CHUNK - 1) // CHUNK
    rows = tl.load(table)
    tiles = tl.load(most_tiles)
    parts = tl.where(rows <= SPLIT_ROWS, CHUNKS, 1)
    items = tl.load(table + 1) * parts * tiles * SLICES
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        which = item % SLICES
        ranks = (item // SLICES) % tiles * RANKS + tl.arange(0, RANKS)
        part = item // (SLICES * tiles) % parts
        line = table + 4 * (1 + item // (SLICES * tiles * parts))
        entry = entries + (tl.load(line + 1) * SLICES + which) * 3
        rank = tl.load(entry + 2).to(tl.int32)
        if (item // SLICES) % tiles * RANKS < rank:
            positions = tl.load(line + 2) + tl.arange(0, ROWS)
            live = tl.arange(0, ROWS) < tl.load(line + 3)
            row = tl.load(table + 4 * (1 + positions), mask=live, other=0).to(tl.int64)
            a = tl.load(entry).to(tl.pointer_type(x.dtype.element_ty))
            a_rows = tl.multiple_of(a, 16) + ranks[None, :] * IN
            x_rows = x + row[:, None] * x_stride
            total = tl.zeros([ROWS, RANKS], tl.float32)
            for chunk in range(part * (CHUNKS // parts), (part + 1) * (CHUNKS // parts)):
                total += _chunk(
                    x_rows, a_rows, live[:, None], (ranks < rank)[None, :], chunk * CHUNK,
                    IN, CHUNK, ROWS, RANKS, COLUMNS, WIDEN,
                )  # fmt: skip
            place = (part * rows + positions).to(tl.int64)[:, None] * (SLICES * MAX_RANK)
            place += which * MAX_RANK + ranks[None, :]
            total = tl.where((ranks < rank)[None, :], total, 0.0)  # else NaN where x is infinite
            padded = ranks < (rank + 15) // 16 * 16
            tl.store(hidden + place, total, mask=live[:, None] & padded[None, :])


@triton.jit
def _chunk(
    x_rows, a_rows, live, in_rank, first,
    IN: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, RANKS: tl.constexpr,
    COLUMNS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Σ x[row, k] · A[r, k] over the columns of one chunk, from zero."""
    total = tl.zeros([ROWS, RANKS], tl.float32)
    for k in range(first, min(first + CHUNK, IN), COLUMNS):
        columns = k + tl.arange(0, COLUMNS)
        x = tl.load(x_rows + columns[None, :], mask=live & (columns < IN)[None, :], other=0.0)
        a = tl.load(a_rows + columns[:, None], mask=in_rank & (columns < IN)[:, None], other=0.0)
        total = _dot(x, a, total, WIDEN)
    return total


@triton.jit
def expand(
    y,  # [rows, sum of out], added to in place
    y_stride,
    table,  # DevicePlan.table
    entries,  # int64 [slots, SLICES, 3]: address of A, address of Bᵀ [rank, out rounded up to 16], rank
    scales,  # float32 [slots]
    columns,  # int32 [tiles, 4]: slice, first column in it, its columns, first column in y
    tiles,
    hidden,  # float32 [part, position, SLICES · MAX_RANK]
    CHUNKS: tl.constexpr,
    SLICES: tl.constexpr,
    MAX_RANK: tl.constexpr,
    ALIGN: tl.constexpr,  # divides every slice's columns
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPLIT_ROWS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """y[row, slice] += scale · hidden[position, slice] Bᵀ, rounded to y's dtype once."""
    rows = tl.load(table)
    parts = tl.where(rows <= SPLIT_ROWS, CHUNKS, 1)
    for item in range(tl.program_id(0), tl.load(table + 1) * tiles, tl.num_programs(0)):
        line = table + 4 * (1 + item // tiles)
        tile = columns + item % tiles * 4
        which = tl.load(tile)
        slot = tl.load(line + 1)
        entry = entries + (slot * SLICES + which) * 3
        rank = tl.load(entry + 2).to(tl.int32)
        if rank > 0:
            out = tl.multiple_of(tl.load(tile + 2), ALIGN)
            column = tl.multiple_of(tl.load(tile + 1), COLUMNS) + tl.arange(0, COLUMNS)
            live = (tl.arange(0, ROWS) < tl.load(line + 3))[:, None]
            positions = tl.load(line + 2) + tl.arange(0, ROWS)
            b = tl.load(entry + 1).to(tl.pointer_type(y.dtype.element_ty))
            delta = _product(
                hidden + positions.to(tl.int64)[:, None] * (SLICES * MAX_RANK) + which * MAX_RANK,
                tl.multiple_of(b, 16) + column[None, :], live, (column < out)[None, :],
                rank, (out + 15) // 16 * 16, parts, rows.to(tl.int64) * (SLICES * MAX_RANK),
                CHUNKS, ROWS, RANKS, COLUMNS, WIDEN,
            )  # fmt: skip
            row = tl.load(table + 4 * (1 + positions)[:, None], mask=live, other=0).to(tl.int64)
            y_tile = y + row * y_stride + tl.multiple_of(tl.load(tile + 3), ALIGN)
            y_tile += tl.arange(0, COLUMNS)[None, :]
            inside = live & (column < out)[None, :]
            before = tl.load(y_tile, mask=inside, other=0.0).to(tl.float32)
            after = before + tl.load(scales + slot) * delta
            tl.store(y_tile, after.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _product(
    hidden, b, live, inside, rank, b_stride, parts, part_stride,
    CHUNKS: tl.constexpr, ROWS: tl.constexpr, RANKS: tl.constexpr, COLUMNS: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    """Σ h[row, r] · Bᵀ[r, column] over the rank, where h is the sum of its parts in their order."""
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, rank, RANKS):
        ranks = first + tl.arange(0, RANKS)
        padded = live & (ranks < (rank + 15) // 16 * 16)[None, :]
        h = tl.zeros([ROWS, RANKS], tl.float32)
        for part in tl.static_range(CHUNKS):  # unrolled, so that all loads are under way at once
            place = hidden + part * part_stride + ranks[None, :]
            h += tl.load(place, mask=padded & (part < parts), other=0.0)
        b_tile = b + ranks[:, None] * b_stride
        total = _dot_exactly(
            h, tl.load(b_tile, mask=(ranks < rank)[:, None] & inside, other=0.0), total, WIDEN
        )
    return total


@triton.jit
def _dot_exactly(h, b, total, WIDEN: tl.constexpr):
    """total + h b, where h keeps at least 16 bits whatever the dtype of b."""
    if b.dtype == tl.bfloat16:
        high = h.to(tl.bfloat16)
        low = (h - high.to(tl.float32)).to(tl.bfloat16)
        total = _dot(high, b, _dot(low, b, total, WIDEN), WIDEN)
    elif b.dtype == tl.float16:  # whose range is too small for a low part; TF32 holds all of b
        total = tl.dot(h, b.to(tl.float32), total, input_precision="tf32x3")
    else:
        total = _dot(h, b, total, WIDEN)
    return total


@triton.jit
def _dot(a, b, total, WIDEN: tl.constexpr):
    if WIDEN:  # Triton's interpreter multiplies the bit patterns of bfloat16
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")
