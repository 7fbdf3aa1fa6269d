"""Cases of the kernels' benchmark, the floor under each, and what is done to have weights cold."""

from __future__ import annotations

from benchmarks.lora_kernels.grid import (
    SHAPES,
    Case,
    Limits,
    Shape,
    cases_of,
    sets_for_cold_weights,
)

QKV = Shape("qkv", 100, (50, 10, 10))


def test_a_case_needs_a_row_for_each_adapter_and_two_ranks_to_mix() -> None:
    cases = cases_of([QKV], [1, 4], [1, 4], ["8", "mixed"])
    assert [(c.rows, c.adapters, c.ranks) for c in cases] == [
        (1, 1, "8"), (4, 1, "8"), (4, 4, "8"), (4, 4, "mixed"),
    ]  # fmt: skip


def test_the_bytes_are_those_of_each_adapters_own_rank() -> None:
    case = Case(QKV, rows=6, adapters=2, ranks="mixed")  # ranks 8 and 16
    elements = (8 + 16) * (3 * 100 + 70)
    assert case.weight_bytes == 2 * elements
    assert case.moved_bytes == 2 * (elements + 6 * 100 + 2 * 6 * 70)
    assert case.flops == 2 * 3 * elements  # three rows each


def test_the_floor_is_whichever_takes_longer() -> None:
    case = Case(QKV, rows=4, adapters=1, ranks="8")
    slow_memory, slow_arithmetic = Limits(1.0, 1e12), Limits(1e12, 1.0)
    assert slow_memory.floor_seconds(case) == case.moved_bytes
    assert slow_arithmetic.floor_seconds(case) == case.flops


def test_rows_of_one_adapter_are_not_neighbours() -> None:
    assert Case(QKV, rows=5, adapters=2, ranks="8").slots_of_rows == (0, 1, 0, 1, 0)


def test_there_are_enough_sets_of_weights_to_overflow_the_cache() -> None:
    large = Case(SHAPES["llama8b.gate_up"], rows=32, adapters=32, ranks="64")
    small = Case(SHAPES["smollm2.o"], rows=8, adapters=8, ranks="8")
    assert sets_for_cold_weights(large, 2**28, 4096) * large.weight_bytes > 2**28
    assert sets_for_cold_weights(small, 2**28, 4096) == 4096 // 8
    assert sets_for_cold_weights(large, 1, 4096) == 2
