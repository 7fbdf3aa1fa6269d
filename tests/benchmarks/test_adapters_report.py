"""Headlines and tables say what the readings say, and a recorded run can be read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.adapters.headlines import GAPS, MANY, Headline, headlines
from benchmarks.adapters.measure import Outcome
from benchmarks.adapters.player import Counts
from benchmarks.adapters.plot import write_plots
from benchmarks.adapters.record import AS_BEFORE, Reading, Record, Removal
from benchmarks.adapters.removal import became
from benchmarks.adapters.report import (
    Recorded,
    answers,
    headline_rows,
    part_columns,
    part_rows,
    read_results,
)
from benchmarks.adapters.scenes import HOT_ALONE, HOT_AND_COLD, NEW, THRASHED, WARM, Part
from benchmarks.adapters.sizes import FULL
from benchmarks.adapters.summary import summarise
from benchmarks.adapters.variants import Variant
from benchmarks.lora_tax.cells import Ranks
from benchmarks.machine import provenance

RANKS = (Ranks("8", (8,)),)
STOCK, OURS = Variant.STOCK, Variant.STACKSERVE


def rounds(part: Part, scene: str, variant: Variant, figure: str, *values: float) -> list[Reading]:
    return [Reading(part, scene, variant, n, {figure: value}) for n, value in enumerate(values)]


def found(readings: list[Reading], removals: tuple[Removal, ...] = ()) -> dict[str, Headline]:
    return {each.name: each for each in headlines(readings, removals, RANKS, FULL)}


def test_many_adapters_are_held_against_few_of_the_same_variant_and_round() -> None:
    few, many = "rank 8, 5 adapters, flood", "rank 8, 1000 adapters, flood"
    readings = [
        *rounds(Part.POPULARITY, few, STOCK, "tokens_per_second", 100.0, 200.0, 100.0),
        *rounds(Part.POPULARITY, many, STOCK, "tokens_per_second", 50.0, 100.0, 60.0),
        *rounds(Part.POPULARITY, few, OURS, "tokens_per_second", 400.0, 800.0, 400.0),
        *rounds(Part.POPULARITY, many, OURS, "tokens_per_second", 380.0, 776.0, 390.0),
    ]
    (headline,) = found(readings).values()
    assert headline.values[STOCK] == "0.500 [0.500, 0.600]"
    assert headline.values[OURS] == "0.970 [0.950, 0.975]"
    assert headline.reached == "aim"


def test_waits_are_stocks_over_each_variants() -> None:
    readings = [
        *rounds(Part.THRASH, THRASHED, STOCK, "ttft_p50", 4.0),
        *rounds(Part.THRASH, THRASHED, OURS, "ttft_p50", 1.0),
    ]
    (headline,) = found(readings).values()
    assert headline.values == {STOCK: "1.000", OURS: "4.000"}
    assert headline.reached == "needed"


def test_a_cold_request_that_is_never_answered_is_no_short_wait() -> None:
    readings = [
        Reading(
            Part.STARVATION, HOT_AND_COLD, variant, 0,
            {"cold_wait": wait, "cold_bound": 3.0, "cold_answered": answered,
             "hot_tokens_per_second": 97.0},
        )
        for variant, wait, answered in ((STOCK, 20.0, 0.0), (OURS, 1.5, 1.0))
    ]  # fmt: skip
    readings += rounds(Part.STARVATION, HOT_ALONE, OURS, "hot_tokens_per_second", 100.0)
    by_name = found(readings)
    wait = by_name["cold request behind two hot adapters: wait / bound"]
    assert wait.values == {STOCK: "none in 20 s", OURS: "0.50 (1.50 s)"}
    assert wait.reached == "aim"
    hot = by_name["hot adapters' tokens/s with a cold one / without"]
    assert (hot.values, hot.reached) == ({OURS: "0.970"}, "missed")


def test_the_dearest_spread_of_the_most_blocked_requests_counts() -> None:
    readings = [
        *rounds(Part.SCHEDULE, "20,000 blocked, 1 adapter", OURS, "schedule_p50", 0.0001),
        *rounds(Part.SCHEDULE, "20,000 blocked, 5,000 adapters", OURS, "schedule_p50", 0.0005),
        *rounds(Part.SCHEDULE, "1,000 blocked, 100 adapters", OURS, "schedule_p50", 9.0),
    ]
    (headline,) = found(readings).values()
    assert (headline.values[OURS], headline.reached) == ("0.5", "needed")


def test_a_goal_is_reached_from_its_own_side() -> None:
    assert [MANY.verdict(value) for value in (0.98, 0.97, 0.91, 0.89)] == [
        "aim", "aim", "needed", "missed",
    ]  # fmt: skip
    assert [GAPS.verdict(value) for value in (1.0, 1.2, 1.4)] == ["aim", "needed", "missed"]


@pytest.mark.parametrize(
    ("answer", "company", "afterwards", "short", "reached"),
    [
        (AS_BEFORE, AS_BEFORE, AS_BEFORE, "served", "aim"),
        ("failed: no file", AS_BEFORE, AS_BEFORE, "fails", "needed"),
        ("failed: no file", "failed: no file", AS_BEFORE, "others fail", "missed"),
        ("failed: dead", "failed: dead", "failed: dead", "engine dies", "missed"),
    ],
)
def test_a_removed_adapter_may_fail_alone(
    answer: str, company: str, afterwards: str, short: str, reached: str
) -> None:
    (headline,) = found([], (Removal(OURS, "slot", answer, company, afterwards),)).values()
    assert (headline.values[OURS], headline.reached) == (short, reached)


def test_an_answer_after_the_removal_is_held_against_the_one_before() -> None:
    before = Outcome(0.0, (1.0,), (7,), "")
    assert became(before, before) == AS_BEFORE
    assert became(Outcome(0.0, (1.0,), (8,), ""), before) == "answered otherwise"
    assert became(Outcome(0.0, (), (), "Gone:\n no file"), before) == "failed: Gone: no file"


def test_wrong_answers_and_adapters_without_effect_are_named() -> None:
    assert answers(Counts(4, 0, 1)) == "none of 4"
    assert answers(Counts(4, 2, 0)) == "[red]2 of 4[/]"
    assert answers(Counts(4, 0, 4)) == "[red]adapters without effect[/]"
    assert answers(Counts()) == "not checked"


def test_a_table_has_a_heading_for_each_scene_and_as_many_cells_as_columns() -> None:
    readings = [
        *rounds(Part.LOADS, WARM, STOCK, "itl_p99", 0.2, 0.1, 0.3),
        *rounds(Part.LOADS, NEW, STOCK, "itl_p99", 0.9),
    ]
    rows = [row for row in part_rows(Part.LOADS, summarise(readings)) if row]
    assert {len(row) for row in rows} == {len(part_columns(Part.LOADS))}
    assert [row[0] for row in rows] == [f"[bold]{WARM}[/]", "  stock", f"[bold]{NEW}[/]", "  stock"]
    assert rows[1][3] == "200.0 (100.0 to 300.0)"
    assert rows[1][1] == ""  # not measured


def test_what_was_missed_is_red() -> None:
    headline = Headline("name", {OURS: "0.5"}, "≥ 0.90", "≥ 0.97", "missed")
    assert list(headline_rows([headline], (STOCK, OURS))) == [
        ("name", "", "0.5", "≥ 0.90", "≥ 0.97", "[red]missed[/]")
    ]


RECORD = Record(
    readings=[
        Reading(
            Part.POPULARITY,
            f"rank 8, 5 adapters, {load}",
            STOCK,
            0,
            {"tokens_per_second": 100.0, "ttft_p50": 1.0},
            ((0.1, 0.2), (0.3, 0.4)),
            Counts(4, 1, 0),
        )
        for load in ("flood", "stream")
    ],
    removals=[Removal(STOCK, "memory", "failed: dead", "failed: dead", "failed: dead")],
    failures={"stock, 8 slots, rank 8": "it died"},
)


def test_a_recorded_run_reads_the_same_again(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    Recorded(provenance(), {}, RECORD, ()).write(path)
    assert read_results(path) == RECORD


def test_a_recorded_run_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    starvation = {"hot_tokens_per_second": 90.0}
    loads = dict.fromkeys(("itl_p50", "itl_p90", "itl_p99", "itl_max"), 0.1)
    others = [
        Reading(Part.THRASH, THRASHED, OURS, 0, {"ttft_p50": 1.0}),
        Reading(Part.STARVATION, HOT_ALONE, OURS, 0, starvation),
        Reading(Part.STARVATION, HOT_AND_COLD, OURS, 0, starvation | {"cold_wait": 1.0}),
        Reading(Part.SCHEDULE, "none blocked", OURS, 0, {"schedule_p50": 0.1}),
        Reading(Part.SCHEDULE, "1,000 blocked, 1 adapter", OURS, 0, {"schedule_p50": 0.1}),
        Reading(Part.LOADS, WARM, OURS, 0, loads),
        Reading(Part.LOADS, NEW, OURS, 0, loads),
    ]
    written = write_plots(Record([*RECORD.readings, *others]), "a machine", tmp_path)
    assert [path.name for path in written] == [
        f"adapters-{part}.{kind}"
        for part in ("popularity", "thrash", "starvation", "schedule", "loads")
        for kind in ("svg", "png")
    ]
