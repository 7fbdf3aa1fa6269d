"""Memory for one adapter's packed weights: its layers side by side, in huge pages where there are some.

A step reads every weight of its adapters once. In pages of 4 KiB that costs an address translation
each 64 cache lines; in pages of 2 MiB it reads a tenth faster (docs/kernels.md).
"""

from __future__ import annotations

import mmap

import torch

HUGE_PAGE = 2 << 20
CHUNK = 4 * HUGE_PAGE
"""Address space that is taken at once. Pages that nothing is written to take no memory."""
LINE = 64
"""Blocks begin on a cache line."""


class WeightMemory:
    """Hands out blocks one after the other. A chunk is freed when its last block is."""

    def __init__(self) -> None:
        self._free = torch.empty(0, dtype=torch.uint8)
        self._taken = 0

    @property
    def unused(self) -> int:
        """Bytes of memory beyond the blocks that were taken: the kernel gives whole huge pages."""
        return -self._taken % HUGE_PAGE

    def take(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """A flat tensor of `count` zeros."""
        size = -(-count * dtype.itemsize // LINE) * LINE
        if size > len(self._free):
            self._free = _chunk(max(CHUNK, -(-size // HUGE_PAGE) * HUGE_PAGE))
        self._taken += size
        block, self._free = self._free[:size], self._free[size:]
        return block.view(dtype)[:count]


def _chunk(size: int) -> torch.Tensor:
    """`size` zero bytes from a border of huge pages on."""
    mapped = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        mapped.madvise(mmap.MADV_HUGEPAGE)
    everything = torch.frombuffer(mapped, dtype=torch.uint8)  # keeps the mapping alive
    first = -everything.data_ptr() % HUGE_PAGE
    return everything[first : first + size]
