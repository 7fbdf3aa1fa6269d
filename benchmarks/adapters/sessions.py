"""The order of the parts with traffic: round by round, variant by variant, scene by scene."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path

from benchmarks.adapters.measure import waits_by_decile
from benchmarks.adapters.player import Player, running_player
from benchmarks.adapters.record import Reading, Record
from benchmarks.adapters.scenes import Scene
from benchmarks.adapters.shelf import DiskFull, Shelf, adapter_bytes
from benchmarks.adapters.traffic import adapters_of
from benchmarks.adapters.variants import Shape, Variant, settings_of
from benchmarks.engine_child import MAX_NUM_SEQS
from benchmarks.engines import EngineFailed
from benchmarks.lora_tax.cells import Ranks
from benchmarks.progress import Steps


@dataclass(frozen=True)
class Workshop:
    """What a run has to work with."""

    base: Path
    shelf: Shelf
    logs: Path
    variants: tuple[Variant, ...]
    rounds: int
    eager: bool
    drop_pages: bool

    def shape(self, ranks: Ranks, slots: int) -> Shape:
        sizes = [adapter_bytes(self.shelf.architecture, rank) for rank in ranks.ranks]
        return Shape(slots, ranks.slot_rank, sum(sizes) // len(sizes))


def by_engine(scenes: Iterable[Scene]) -> list[list[Scene]]:
    """Scenes that one engine can play, together; in the order in which they first come."""
    groups: dict[tuple[str, int], list[Scene]] = {}
    for scene in scenes:
        groups.setdefault((scene.ranks.name, scene.slots), []).append(scene)
    return list(groups.values())


def count_sessions(scenes: Sequence[Scene], variants: int, rounds: int) -> int:
    """One for each start of an engine, and one for each session."""
    return variants * (len(by_engine(scenes)) + rounds * len(scenes))


def play_scenes(scenes: Sequence[Scene], workshop: Workshop, record: Record, steps: Steps) -> None:
    """Fill the record. An engine that fails ends its own part of the run, the others go on."""
    for same_engine in by_engine(scenes):
        with ExitStack() as stack:
            Turns(same_engine, workshop, record, steps).play(stack)


@dataclass
class Turns:
    """Scenes that share one engine of each variant.

    Those of one part stand side by side in a round: their ratio is taken on nearly the same machine.
    """

    scenes: Sequence[Scene]
    workshop: Workshop
    record: Record
    steps: Steps
    _players: dict[Variant, Player] = field(default_factory=dict)

    def play(self, stack: ExitStack) -> None:
        self._write_adapters()
        for variant in self.workshop.variants:
            self._players[variant] = stack.enter_context(self._starting(variant))
        slots = self.scenes[0].slots
        for variant, player in self._players.items():
            self._step("starting", variant, partial(player.warm_up, MAX_NUM_SEQS, slots))
        for _, group in groupby(self.scenes, key=lambda scene: scene.part):
            side_by_side = list(group)
            for round_ in range(self.workshop.rounds):
                self._round(side_by_side, round_)
        for player in self._players.values():
            player.engine.hang_up()

    def _write_adapters(self) -> None:
        """Before any clock runs."""
        rounds = range(self.workshop.rounds)
        for scene in self.scenes:
            asked = {number for round_ in rounds for number in adapters_of(scene.traffic(round_))}
            self.workshop.shelf.fill(scene.ranks, asked | set(range(scene.slots)))

    def _round(self, scenes: Sequence[Scene], round_: int) -> None:
        """Each round begins with another variant, and every second goes through the scenes backwards."""
        variants = self.workshop.variants
        first = round_ % len(variants)
        in_order = scenes if round_ % 2 == 0 else scenes[::-1]
        for variant in (*variants[first:], *variants[:first]):
            for scene in in_order:
                what = f"{scene.part}, {scene.title}: round {round_ + 1}"
                self._step(what, variant, partial(self._session, scene, variant, round_))

    def _session(self, scene: Scene, variant: Variant, round_: int) -> None:
        player = self._players[variant]
        if self.workshop.drop_pages:
            self.workshop.shelf.forget_pages()
        player.wake()
        session = player.play(scene.traffic(round_), scene.until)
        if session.dead:
            raise EngineFailed(session.dead)
        self.record.readings.append(
            Reading(
                scene.part,
                scene.title,
                variant,
                round_,
                scene.figures(session),
                waits_by_decile(session) if scene.has_deciles else (),
                player.check(session),
            )
        )

    def _starting(self, variant: Variant) -> AbstractContextManager[Player]:
        scene, workshop = self.scenes[0], self.workshop
        shape = workshop.shape(scene.ranks, scene.slots)
        settings = settings_of(variant, str(workshop.base), shape, workshop.eager)
        log = workshop.logs / f"{variant}-{shape.slots}x{shape.slot_rank}.log"
        return running_player(settings, workshop.shelf, scene.ranks, log)

    def _step(self, what: str, variant: Variant, act: Callable[[], None]) -> None:
        """One step of the bar, nothing for an engine that has failed."""
        scene = self.scenes[0]
        engine = f"{variant}, {scene.slots} slots, rank {scene.ranks.name}"
        self.steps.begin(f"{what}, {variant}")
        if engine not in self.record.failures:
            try:
                act()
            except (EngineFailed, DiskFull) as failed:
                self.record.failures[engine] = str(failed)
        self.steps.done()
