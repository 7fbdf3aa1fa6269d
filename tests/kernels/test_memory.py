"""Memory of packed weights: blocks side by side, zero, and counted as the kernel gives it."""

from __future__ import annotations

import torch

from stackserve_kernels.lora.memory import CHUNK, HUGE_PAGE, LINE, WeightMemory


def test_blocks_are_zero_lie_on_cache_lines_and_do_not_overlap() -> None:
    memory = WeightMemory()
    blocks = [memory.take(count, torch.bfloat16) for count in (1, 33, 1000)]
    for number, block in enumerate(blocks, start=1):
        assert not block.any()
        assert block.data_ptr() % LINE == 0
        block.fill_(number)
    assert [set(block.tolist()) for block in blocks] == [{1.0}, {2.0}, {3.0}]


def test_a_block_larger_than_a_chunk_is_whole() -> None:
    block = WeightMemory().take(CHUNK + 1, torch.uint8)
    assert len(block) == CHUNK + 1
    assert block.is_contiguous()


def test_what_whole_huge_pages_take_beyond_the_blocks_is_told() -> None:
    memory = WeightMemory()
    assert memory.unused == 0
    memory.take(LINE, torch.uint8)
    assert memory.unused == HUGE_PAGE - LINE
    memory.take(HUGE_PAGE - LINE, torch.uint8)
    assert memory.unused == 0
