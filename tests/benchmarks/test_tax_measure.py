"""Answers are compared with what the same row answers alone, and with the first round's."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmarks.engines import Answers, Row
from benchmarks.lora_tax.cells import Phase
from benchmarks.lora_tax.measure import Cell, Check, TooNoisy
from benchmarks.lora_tax.report import what_is_wrong

DECODE = Phase("decode", sequences=4, prompt_tokens=2, output_tokens=8)
PREFILL = Phase("prefill", sequences=4, prompt_tokens=2, output_tokens=1)
ROWS = tuple(Row((row, row), "adapter" if row % 2 else None) for row in range(4))


class FakeEngine:
    """Answers a row with numbers made of its prompt and adapter; takes a second a token."""

    def __init__(self) -> None:
        self.lets_company_in = False
        self.applies_adapters = True
        self.drifts = 0
        self.second_per_token = 1.0

    def settle(self) -> None:
        pass

    def generate(self, rows: Sequence[Row], tokens: int) -> Answers:
        mixed = len({row.adapter for row in rows}) > 1
        answers = []
        for row in rows:
            start = row.prompt[0] * 100
            if row.adapter and self.applies_adapters:
                start += 50
            if mixed and self.lets_company_in and row.adapter is None:
                start += 7
            answers.append(tuple(range(start + self.drifts, start + self.drifts + tokens)))
        return Answers(tuple(answers), self.second_per_token * tokens)


def measured(engine: FakeEngine, phase: Phase = DECODE) -> Cell:
    cell = Cell(engine, phase, ROWS, {})
    cell.prepare()
    cell.measure()
    return cell


def check(cell: Cell) -> Check:
    return Check("decode", "8", 1, "half", **cell.counts())


def test_decode_is_timed_without_its_first_token() -> None:
    cell = measured(FakeEngine())
    assert cell.measure() == (4.0, (1.0, 9.0))  # 4 rows of 8 tokens in 8 seconds


def test_prefill_is_timed_by_its_prompts() -> None:
    assert measured(FakeEngine(), PREFILL).measure() == (8.0, (1.0,))


def test_right_answers_are_right() -> None:
    found = check(measured(FakeEngine()))
    assert found.is_right
    assert (found.base_rows, found.adapter_rows) == (2, 2)
    assert what_is_wrong(found) == ""


def test_base_rows_that_change_in_company_are_counted() -> None:
    engine = FakeEngine()
    engine.lets_company_in = True
    found = check(measured(engine))
    assert (found.base_wrong, found.adapter_wrong, found.is_right) == (2, 0, False)
    assert what_is_wrong(found) == "2 of 2 base rows"


def test_answers_that_change_from_round_to_round_are_counted() -> None:
    engine = FakeEngine()
    cell = measured(engine)
    engine.drifts = 1
    cell.measure()
    assert check(cell).changed == 4


def test_adapters_that_nobody_applies_are_found() -> None:
    engine = FakeEngine()
    engine.applies_adapters = False
    found = check(measured(engine))
    assert not found.is_right
    assert what_is_wrong(found) == "adapters without effect"


def test_a_machine_too_busy_to_show_a_difference_is_named() -> None:
    engine = FakeEngine()
    cell = measured(engine)
    engine.second_per_token = 0.0
    with pytest.raises(TooNoisy, match="busy"):
        cell.measure()
