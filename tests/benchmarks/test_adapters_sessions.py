"""Engines take turns, one that fails ends its own part only, and adapters are written when needed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.adapters import sessions
from benchmarks.adapters.child import stream_arguments
from benchmarks.adapters.measure import Loads, Outcome, Session
from benchmarks.adapters.options import parse
from benchmarks.adapters.player import Counts
from benchmarks.adapters.record import Record
from benchmarks.adapters.scenes import Part, loads, popularity, starvation, thrash
from benchmarks.adapters.schedule_cost import cases_of
from benchmarks.adapters.sessions import Turns, Workshop, by_engine, count_sessions
from benchmarks.adapters.shelf import SPARE_BYTES, DiskFull, Shelf, adapter_bytes
from benchmarks.adapters.sizes import FULL, QUICK
from benchmarks.adapters.traffic import Traffic
from benchmarks.adapters.variants import Shape, Variant, settings_of
from benchmarks.lora_tax.cells import Ranks
from stackserve.adapters import BaseArchitecture
from stackserve.protocol import SCHEDULER
from tests.tiny_models import write_base

RANK_2 = Ranks("2", (2,))
MIXED = Ranks("mixed", (1, 2))
SHAPE = Shape(slots=8, slot_rank=16, adapter_bytes=2**20)


@pytest.fixture
def adapters(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "adapters", BaseArchitecture.from_folder(write_base(tmp_path / "base")))


class CountedSteps:
    def __init__(self) -> None:
        self.begun: list[str] = []
        self.finished = 0

    def begin(self, what: str) -> None:
        self.begun.append(what)

    def done(self) -> None:
        self.finished += 1


class FakePlayer:
    """Answers everything at once; `dies` after so many sessions."""

    def __init__(self, dies: int | None = None) -> None:
        self.engine = self
        self._left = dies

    def hang_up(self) -> None:
        pass

    def warm_up(self, seats: int, slots: int) -> None:
        pass

    def wake(self) -> None:
        pass

    def play(self, traffic: Traffic, until: float | None = None) -> Session:
        dead = ""
        if self._left is not None:
            self._left -= 1
            dead = "no such file" if self._left < 0 else ""
        outcomes = tuple(Outcome(ask.at, (ask.at + 1, ask.at + 2), (1, 2), "") for ask in traffic)
        return Session(traffic, outcomes, Loads(1, 2), traffic[-1].at + 2, dead)

    def check(self, session: Session) -> Counts:
        return Counts(1, 0, 0)


def play(
    monkeypatch: pytest.MonkeyPatch, adapters: Shelf, players: dict[Variant, FakePlayer]
) -> tuple[Record, CountedSteps]:
    @contextmanager
    def running(settings: Any, shelf: Any, ranks: Any, log: Path) -> Iterator[FakePlayer]:
        yield players[next(v for v in players if log.name.startswith(f"{v}-"))]

    monkeypatch.setattr(sessions, "running_player", running)
    workshop = Workshop(adapters.folder, adapters, adapters.folder, tuple(players), 2, True, False)
    record, steps = Record(), CountedSteps()
    scenes = tuple(popularity(QUICK, RANK_2, (3,)))
    with ExitStack() as stack:
        Turns(scenes, workshop, record, steps).play(stack)
    assert steps.finished == count_sessions(scenes, len(players), 2)
    return record, steps


def test_variants_take_turns_and_the_other_begins_in_the_next_round(
    monkeypatch: pytest.MonkeyPatch, adapters: Shelf
) -> None:
    record, _ = play(
        monkeypatch, adapters, {Variant.STOCK: FakePlayer(), Variant.STACKSERVE: FakePlayer()}
    )
    order = [(each.round, each.variant) for each in record.readings if "flood" in each.scene]
    assert order == [(0, "stock"), (0, "stackserve"), (1, "stackserve"), (1, "stock")]
    assert all(each.figures["tokens_per_second"] for each in record.readings)
    assert {bool(each.deciles) for each in record.readings if "stream" in each.scene} == {True}


def test_every_second_round_goes_through_the_scenes_backwards(
    monkeypatch: pytest.MonkeyPatch, adapters: Shelf
) -> None:
    record, _ = play(monkeypatch, adapters, {Variant.STOCK: FakePlayer()})
    loads_in_order = [each.scene.rpartition(", ")[2] for each in record.readings]
    assert loads_in_order == ["flood", "stream", "stream", "flood"]


def test_an_engine_that_dies_ends_its_own_part_only(
    monkeypatch: pytest.MonkeyPatch, adapters: Shelf
) -> None:
    players = {Variant.STOCK: FakePlayer(dies=1), Variant.STACKSERVE: FakePlayer()}
    record, _ = play(monkeypatch, adapters, players)
    counts = [sum(r.variant == v for r in record.readings) for v in players]
    assert counts == [1, 4]
    assert record.failures == {"stock, 16 slots, rank 2": "no such file"}


def test_scenes_are_grouped_by_the_engine_that_they_need() -> None:
    scenes = [*popularity(FULL, RANK_2, (5,)), *thrash(FULL), *loads(FULL), *starvation(FULL)]
    groups = [[scene.part for scene in group] for group in by_engine(scenes)]
    assert groups == [
        [Part.POPULARITY] * 2,
        [Part.THRASH] * 2 + [Part.LOADS] * 3,
        [Part.STARVATION] * 2,
    ]


def test_adapters_are_written_once_with_weights_of_their_own(adapters: Shelf) -> None:
    adapters.fill(MIXED, (0, 1, 2))
    weights = [adapters.path(MIXED, n) / "adapter_model.safetensors" for n in range(3)]
    assert len({file.read_bytes() for file in weights}) == 3
    times = [file.stat().st_mtime_ns for file in weights]
    adapters.fill(MIXED, (0, 1, 2))
    assert [file.stat().st_mtime_ns for file in weights] == times
    ranks = [json.loads((f.parent / "adapter_config.json").read_text())["r"] for f in weights]
    assert ranks == [1, 2, 1]
    assert adapters.size() == (3, sum(file.stat().st_size for file in weights))


def test_an_adapter_is_about_as_large_as_was_reckoned(adapters: Shelf) -> None:
    adapters.fill(RANK_2, (0,))
    reckoned = adapter_bytes(adapters.architecture, 2)
    assert reckoned <= adapters.size()[1] <= reckoned + 16_384  # the header


def test_a_removed_adapter_is_written_again(adapters: Shelf) -> None:
    adapters.fill(RANK_2, (0,))
    before = (adapters.path(RANK_2, 0) / "adapter_model.safetensors").read_bytes()
    adapters.remove(RANK_2, 0)
    assert adapters.size() == (0, 0)
    adapters.fill(RANK_2, (0,))
    assert (adapters.path(RANK_2, 0) / "adapter_model.safetensors").read_bytes() == before


def test_adapters_that_would_not_fit_are_refused_before_any_is_written(
    adapters: Shelf,
) -> None:
    adapters.free_bytes = lambda folder: SPARE_BYTES
    with pytest.raises(DiskFull, match="2 adapters need"):
        adapters.fill(RANK_2, (0, 1))
    assert adapters.size() == (0, 0)


def test_variants_differ_in_plug_in_scheduler_and_host_memory_alone() -> None:
    arguments = {
        variant: stream_arguments(
            vars(settings_of(variant, "base", SHAPE, eager=False, host_bytes=64 * 2**20))
        )
        for variant in Variant
    }
    stock = arguments[Variant.STOCK]
    assert arguments[Variant.KERNELS] == stock
    assert arguments[Variant.STOCK_HOST] == stock | {"max_cpu_loras": 64}
    ours = arguments[Variant.STACKSERVE]
    assert ours.pop("scheduler_cls") == SCHEDULER
    assert ours.pop("additional_config")["stackserve"]["host_bytes"] == 64 * 2**20
    assert ours == stock
    settings = [settings_of(variant, "base", SHAPE, eager=False) for variant in Variant]
    assert [each.plugin for each in settings] == [False, False, True, True]


def test_blocked_requests_are_never_spread_over_more_adapters_than_requests() -> None:
    cases = [(case.blocked, case.adapters) for case in cases_of(FULL)]
    assert len(cases) == len(set(cases))
    assert (0, 1) in cases
    assert (1000, 1000) in cases
    assert (20_000, 5000) in cases
    assert all(adapters <= max(1, blocked) for blocked, adapters in cases)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--parts", "all"], ("--parts", "'all'", "popularity, thrash")),
        (["--variants", "vllm"], ("--variants", "'vllm'", "stock")),
        (["--ranks", "128"], ("--ranks", "'128'", "from 1 to 64, or 'mixed'")),
        (["--adapters", "0"], ("--adapters", "'0'", "from 1")),
    ],
)
def test_a_bad_flag_is_refused_in_one_sentence(
    arguments: Sequence[str], named: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.count("\n") == 1
    assert all(part in said for part in named)


def test_quick_is_small_but_flags_beside_it_hold() -> None:
    quick = parse(
        ["--quick", "--rounds", "2", "--rate", "5", "--adapters", "3", "--parts", "loads,thrash"]
    )
    assert quick.parts == (Part.THRASH, Part.LOADS)
    assert (quick.sizes.rounds, quick.sizes.adapters, quick.eager) == (2, (3,), True)
    assert quick.sizes.stream == 5.0
    assert parse([]).variants == (Variant.STOCK, Variant.KERNELS, Variant.STACKSERVE)
