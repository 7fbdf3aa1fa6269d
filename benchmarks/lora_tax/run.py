"""The order of a run: scene by scene, round by round, target by target."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from benchmarks.engines import EngineFailed, Row
from benchmarks.lora_tax.cells import (
    EngineKind,
    Scene,
    Target,
    adapters_of_rows,
    by_slot_rank,
    scenes_of,
    turn_order,
)
from benchmarks.lora_tax.fleet import Fleet, Folders
from benchmarks.lora_tax.measure import Cell, Check, Reading, Solo, TooNoisy
from benchmarks.lora_tax.options import Options
from benchmarks.progress import Steps
from benchmarks.prompts import prompts


@dataclass
class Record:
    """What a run has found so far: an interrupted run still has a report."""

    readings: list[Reading] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    failures: dict[EngineKind, str] = field(default_factory=dict)
    complete: bool = False


def scenes(options: Options) -> tuple[Scene, ...]:
    return scenes_of(options.phases, options.ranks, options.adapters)


def count_steps(options: Options) -> int:
    """One for each preparation and each reading."""
    return len(scenes(options)) * len(options.targets) * (1 + options.rounds)


def run(options: Options, folders: Folders, record: Record, steps: Steps) -> None:
    """Fill the record. An engine that fails takes its targets with it, the others go on."""
    with ExitStack() as always:
        fleet = Fleet(folders, max(options.adapters), options.eager, always)
        try:
            for _, group in by_slot_rank(scenes(options)):
                solo: dict[EngineKind, Solo] = {}
                with fleet.for_slot_rank() as stack:
                    for scene in group:
                        Turn(options, fleet, record, steps, scene, solo).play(stack)
        finally:
            fleet.hang_up()
    record.complete = not record.failures


@dataclass
class Turn:
    """One scene: every target is prepared, then they take turns."""

    options: Options
    fleet: Fleet
    record: Record
    steps: Steps
    scene: Scene
    solo: dict[EngineKind, Solo]

    def play(self, stack: ExitStack) -> None:
        cells: dict[str, Cell] = {}
        for target in self.options.targets:
            if target.engine not in self.record.failures:
                self.fleet.start(target.engine, self.scene, stack)
        for target in self.options.targets:
            with self._step(target, "preparing"):
                cells[target.name] = self._prepare(target)
        try:
            for round_ in range(self.options.rounds):
                for target in turn_order(self.options.targets, round_):
                    with self._step(target, f"round {round_ + 1}"):
                        if target.name in cells:
                            self._measure(cells[target.name], target, round_)
        finally:  # what was read so far was checked so far
            self._keep_checks(cells)

    @contextmanager
    def _step(self, target: Target, what: str) -> Iterator[None]:
        """One step of the bar. A failure ends the engine's part in the run, not the run."""
        self.steps.begin(f"{self.scene.title}: {what}, {target.name}")
        try:
            yield
        except (EngineFailed, TooNoisy) as failed:
            self.record.failures.setdefault(target.engine, str(failed))
        self.steps.done()

    def _prepare(self, target: Target) -> Cell:
        if target.engine in self.record.failures:
            raise EngineFailed(self.record.failures[target.engine])
        engine = self.fleet.engine(target.engine)
        engine.wait_until_ready()
        cell = Cell(
            engine,
            self.scene.phase,
            self._rows(target),
            self.solo.setdefault(target.engine, {}),
        )
        cell.prepare()
        return cell

    def _rows(self, target: Target) -> tuple[Row, ...]:
        scene, folders = self.scene, self.fleet.folders
        phase = scene.phase
        texts = prompts(folders.base, phase.sequences, phase.prompt_tokens)
        chosen = adapters_of_rows(target, phase.sequences, scene.adapters)
        return tuple(
            Row(text, None if number is None else folders.adapter(scene.ranks, number))
            for text, number in zip(texts, chosen, strict=True)
        )

    def _measure(self, cell: Cell, target: Target, round_: int) -> None:
        if target.engine in self.record.failures:
            return
        rate, seconds = cell.measure()
        scene = self.scene
        self.record.readings.append(
            Reading(
                scene.phase.name,
                scene.ranks.name,
                scene.adapters,
                target.name,
                round_,
                rate,
                seconds,
            )
        )

    def _keep_checks(self, cells: dict[str, Cell]) -> None:
        scene = self.scene
        self.record.checks += [
            Check(scene.phase.name, scene.ranks.name, scene.adapters, name, **cell.counts())
            for name, cell in cells.items()
        ]
