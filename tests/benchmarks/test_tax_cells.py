"""Which scenes there are, which row has which adapter, and who is measured when."""

from __future__ import annotations

from benchmarks.lora_tax.cells import (
    PHASES,
    TARGETS,
    EngineKind,
    Ranks,
    adapters_of_rows,
    by_slot_rank,
    left_out,
    rows_to_check,
    scenes_of,
    turn_order,
)

DECODE, PREFILL = PHASES["decode"], PHASES["prefill"]


def test_scenes_of_one_slot_rank_come_together_and_share_engines() -> None:
    ranks = [Ranks("mixed", (8, 64)), Ranks("8", (8,)), Ranks("64", (64,)), Ranks("9", (9,))]
    groups = dict(by_slot_rank(scenes_of([DECODE], ranks, [1, 4])))
    assert list(groups) == [8, 16, 64]
    assert [(s.ranks.name, s.adapters) for s in groups[64]] == [
        ("mixed", 1), ("mixed", 4), ("64", 1), ("64", 4),
    ]  # fmt: skip


def test_a_batch_with_more_adapters_than_rows_is_no_scene() -> None:
    scenes = scenes_of([DECODE, PREFILL], [Ranks("8", (8,))], [8, 16])
    assert [(s.phase.name, s.adapters) for s in scenes] == [
        ("decode", 8), ("decode", 16), ("prefill", 8),
    ]  # fmt: skip
    assert left_out([DECODE, PREFILL], [8, 16]) == {PREFILL: (16,)}


def test_mixed_ranks_lie_in_turn_over_the_adapters() -> None:
    mixed = Ranks("mixed", (8, 16, 32, 64))
    assert [mixed.rank_of(number) for number in range(5)] == [8, 16, 32, 64, 8]


def test_rows_get_adapters_by_the_target() -> None:
    assert adapters_of_rows(TARGETS["stackserve"], 5, 2) == (0, 1, 0, 1, 0)
    assert adapters_of_rows(TARGETS["half"], 6, 2) == (None, 0, None, 1, None, 0)
    assert adapters_of_rows(TARGETS["idle"], 3, 2) == (None, None, None)
    assert adapters_of_rows(TARGETS["base"], 3, 2) == (None, None, None)


def test_only_engines_with_lora_are_asked_for_adapters() -> None:
    assert all(target.engine.has_lora for target in TARGETS.values() if target.stride)
    assert not EngineKind.PLAIN.has_lora


def test_every_target_is_first_once_in_as_many_rounds() -> None:
    targets = tuple(TARGETS.values())
    firsts = [turn_order(targets, number)[0] for number in range(len(targets))]
    assert sorted(t.name for t in firsts) == sorted(TARGETS)
    assert set(turn_order(targets, 3)) == set(targets)


def test_checked_rows_are_of_both_parities() -> None:
    rows = rows_to_check(16, 4)
    assert len(rows) == 4
    assert {row % 2 for row in rows} == {0, 1}
    assert max(rows) < 16
    assert rows_to_check(2, 4) == (0, 1)


def test_decode_counts_what_it_puts_out_and_prefill_what_it_reads() -> None:
    assert DECODE.counted_tokens == 16 * 64
    assert PREFILL.counted_tokens == 8 * 512
