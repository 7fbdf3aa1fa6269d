"""A recorded run as a table: the same from its file as from the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.lora_tax.measure import Check, Reading
from benchmarks.lora_tax.plot import write_plot
from benchmarks.lora_tax.report import Recorded, read_results, summarise, table_rows
from benchmarks.machine import provenance

SPEEDS = {
    "base": (100.0, 200.0, 150.0),
    "stackserve": (90.0, 160.0, 120.0),
    "stock-half": (20.0, 40.0, 30.0),
}
READINGS = tuple(
    Reading("decode", "8", 4, target, number, speed, (1.0, 2.0))
    for target, speeds in SPEEDS.items()
    for number, speed in enumerate(speeds)
)
CHECKS = (
    Check("decode", "8", 4, "stackserve", 0, 0, 4, 0, 0, 1),
    Check("decode", "8", 4, "stock-half", 2, 2, 2, 1, 0, 0),
)


def test_a_target_is_held_against_the_base_of_the_same_round() -> None:
    by_target = {each.target: each for each in summarise(READINGS, CHECKS)}
    ratio = by_target["stackserve"].ratio
    assert ratio is not None
    assert (ratio.median, ratio.low, ratio.high) == (0.8, 0.8, 0.9)
    assert by_target["base"].speed.median == 150.0


def test_wrong_answers_are_named_in_the_table() -> None:
    rows = {row[0].strip(): row for row in table_rows(summarise(READINGS, CHECKS)) if row}
    assert "[bold]decode, rank 8, 4 adapters[/]" in rows
    assert rows["stackserve"] == (
        "  stackserve",
        "120",
        "90 to 160",
        "0.800 [0.800, 0.900]",
        "none of 4",
    )
    assert rows["stock-half"][-1] == "[red]2 of 2 base rows, 1 of 2 adapter rows[/]"
    assert rows["base"][-1] == "not checked"


def test_a_recorded_run_gives_the_same_summaries(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    recorded = Recorded(provenance(), {}, True, {}, READINGS, CHECKS)
    recorded.write(path)
    assert read_results(path) == summarise(READINGS, CHECKS)


def test_without_a_baseline_there_is_no_ratio() -> None:
    (only,) = summarise([each for each in READINGS if each.target == "stackserve"], ())
    assert only.ratio is None


def test_a_recorded_run_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    written = write_plot(summarise(READINGS, CHECKS), "a machine", tmp_path)
    assert [path.name for path in written] == ["lora_tax.svg", "lora_tax.png"]
    assert "stock-half" in written[0].read_text()
