"""Turns, what is counted of them, and what a run says in the end."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.http_load import Outcome
from benchmarks.machine import provenance
from benchmarks.oip_answers import Verdict
from benchmarks.oip_memory import (
    Memory,
    cpu_seconds,
    descendants,
    machine_seconds,
    parents,
    sampled,
)
from benchmarks.oip_models import Encoding
from benchmarks.oip_report import (
    SMALL,
    Record,
    ZooMemory,
    disturbance,
    headlines,
    memory_rows,
    rows,
    write,
)
from benchmarks.oip_rounds import (
    HALF_LOAD,
    THROUGHPUT,
    WARM_SECONDS,
    ZIPF,
    Reading,
    WorkerTime,
    figures,
    in_turn,
    most_taken,
    with_own,
)
from benchmarks.oip_servers import Launch, Server, Target

MIB = 1 << 20


def server(name: str) -> Server:
    return Server(Target(name, (Encoding.JSON,), lambda *_: Launch((), 1, "")), 1, 1)


def reading(
    target: str, number: int, rate: float, part: str = THROUGHPUT, cell: str = SMALL
) -> Reading:
    return Reading(part, cell, target, number, rate, 0.001, 0.002, 0.01, 0.1, Verdict(right=10))


def outcome(answers: Sequence[tuple[float, float, int]]) -> Outcome:
    began, took, status = (np.array(column) for column in zip(*answers, strict=True))
    return Outcome(began, took, status, (), 2.3, 0.1)


def test_the_warm_up_and_failures_are_no_throughput() -> None:
    seen = outcome(
        [
            (0.0, 0.1, 200),
            (0.2, WARM_SECONDS, 200),
            (1.0, 0.2, 200),
            (1.1, 0.4, 200),
            (1.2, 9.0, 500),
            (2.0, 0.5, 200),
        ]
    )
    rate, p50, p99 = figures(seen, WARM_SECONDS + 2)
    assert rate == pytest.approx(3 / 2)
    assert p50 == pytest.approx(0.4)
    assert 0.4 < p99 <= 0.5


def test_a_server_without_a_good_answer_has_no_latency() -> None:
    rate, p50, p99 = figures(outcome([(1.0, 0.1, 500)]), 2)
    assert rate == 0
    assert np.isnan(p50)
    assert np.isnan(p99)


def test_another_server_begins_each_round() -> None:
    servers = [server(name) for name in "abc"]
    orders = ["".join(each.name for each in in_turn(servers, number)) for number in range(4)]
    assert orders == ["abc", "bca", "cab", "abc"]


def test_half_of_the_median_is_half_load() -> None:
    readings = [reading("a", number, rate) for number, rate in enumerate([100, 300, 200, 0])]
    assert most_taken(readings) == {(SMALL, "a"): 200}


def test_what_the_worker_had_is_not_added_by_the_gateway() -> None:
    found = with_own(reading("a", 0, 1), WorkerTime(100, 1.0), WorkerTime(300, 1.1))
    assert found.own == pytest.approx(0.0005)
    assert found.added_p99 == pytest.approx(0.0015)
    assert with_own(reading("a", 0, 1), None, None).added_p99 is None
    assert with_own(reading("a", 0, 1), WorkerTime(1, 1), WorkerTime(1, 1)).added_p99 is None


def record() -> Record:
    made = Record()
    for number, machine in enumerate([1.0, 0.5, 2.0]):  # ratios do not see how fast the machine was
        made.readings += [
            reading("stackserve", number, 6000 * machine),
            reading("MLServer", number, 2000 * machine),
            reading("Triton", number, 8000 * machine),
            with_own(
                reading("stackserve", number, 3000, HALF_LOAD),
                WorkerTime(0, 0),
                WorkerTime(10, 0.01),
            ),
        ]
    zipf = reading("stackserve", 0, 100, ZIPF, ZIPF)
    zipf.verdict.wrong = 2
    made.readings.append(zipf)
    made.memory["stackserve"] = ZooMemory(50 * MIB, 100 * MIB, Memory(highest=160 * MIB))
    made.memory["MLServer"] = ZooMemory(0, None, Memory(highest=2000 * MIB))
    return made


def test_the_headlines_are_ratios_within_rounds_and_what_must_not_be() -> None:
    found = [(each.value, each.row[-1]) for each in headlines(record())]
    assert found == [
        (pytest.approx(3), "needed"),
        (pytest.approx(0.75), "needed"),
        (pytest.approx(1), "aim"),
        (2, "[red]missed[/]"),
        (pytest.approx(10), "needed"),
    ]


def test_a_run_says_when_other_programs_took_the_cores() -> None:
    quiet = reading("Triton", 0, 1.0)
    assert disturbance([quiet]) == ""
    assert "up to 0.90" in disturbance([quiet, replace(quiet, elsewhere=0.9)])


def test_the_time_of_the_cores_is_found() -> None:
    before = cpu_seconds(os.getpid()), machine_seconds()
    while cpu_seconds(os.getpid()) == before[0] or machine_seconds() == before[1]:
        pass
    assert cpu_seconds(os.getpid()) > before[0] > 0
    assert machine_seconds() > before[1] > before[0]


def test_a_run_without_ours_has_no_headlines() -> None:
    assert not list(headlines(Record(readings=[reading("Triton", 0, 1.0)])))


def test_the_tables_show_each_server_once_for_each_kind_of_request() -> None:
    lines = [row for row in rows(record().readings, THROUGHPUT) if row]
    assert [row[0].strip() for row in lines[1:]] == ["stackserve", "MLServer", "Triton"]
    assert lines[2][4].startswith("3.000")
    assert [row[3:5] for row in memory_rows(record().memory)] == [
        ("100", "+10.0%"), ("all models loaded", ""),
    ]  # fmt: skip


def test_a_run_can_be_read_again(tmp_path: Path) -> None:
    write(tmp_path / "results.json", provenance(), {"rounds": 3}, record())
    body = json.loads((tmp_path / "results.json").read_text())
    assert body["benchmark"] == "oip"
    assert len(body["readings"]) == 13
    assert len(body["headlines"]) == 5


def test_the_memory_of_all_that_a_server_started_counts() -> None:
    assert sorted(descendants(1, {2: 1, 3: 2, 4: 9, 5: 1})) == [2, 3, 5]
    assert parents()[parents_of_this()] >= 0


def parents_of_this() -> int:
    return int(Path("/proc/self/stat").read_text().split()[0])


def test_memory_is_sampled_until_the_end() -> None:
    memory = Memory()
    values = iter([5, 9, 7])
    last = 0

    def measure() -> int:
        nonlocal last
        last = next(values, last)
        return last

    with sampled(measure, memory):
        while memory.samples < 3:
            pass
    assert (memory.highest, memory.last) == (9, 7)
