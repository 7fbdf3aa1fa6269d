"""The engines and folders behind the targets, started when a scene first needs them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.adapter_folders import write_adapter, write_merged
from benchmarks.engines import Engine, EngineSettings, running_engine
from benchmarks.lora_tax.cells import EngineKind, Ranks, Scene
from stackserve.adapters import BaseArchitecture


@dataclass
class Folders:
    """The base, what is made for this run in a temporary folder, and where engines keep logs."""

    base: Path
    scratch: Path
    logs: Path
    _made: dict[str, Path] = field(default_factory=dict)

    def adapter(self, ranks: Ranks, number: int) -> str:
        """Adapter `number` of these ranks; written when first asked for."""
        rank = ranks.rank_of(number)
        name = f"rank{rank}-{number}"
        if name not in self._made:
            architecture = BaseArchitecture.from_folder(self.base)
            write_adapter(self.scratch / name, architecture, rank, seed=number)
            self._made[name] = self.scratch / name
        return str(self._made[name])

    def merged(self, ranks: Ranks) -> str:
        """The base with one adapter merged: its weights' values change, not their cost."""
        if "merged" not in self._made:
            write_merged(self.scratch / "merged", self.base, Path(self.adapter(ranks, 0)))
            self._made["merged"] = self.scratch / "merged"
        return str(self._made["merged"])

    def log(self, kind: EngineKind) -> Path:
        return self.logs / f"{kind}.log"


@dataclass
class Fleet:
    """Running engines by kind. Those without LoRA serve all scenes, those with it one slot rank."""

    folders: Folders
    slots: int
    eager: bool
    _always: ExitStack
    _running: dict[EngineKind, Engine] = field(default_factory=dict)

    @contextmanager
    def for_slot_rank(self) -> Iterator[ExitStack]:
        """Engines with LoRA that are started inside end with it."""
        with ExitStack() as stack:
            try:
                yield stack
            finally:
                self.hang_up(kind for kind in EngineKind if kind.has_lora)

    def hang_up(self, kinds: Iterable[EngineKind] = EngineKind) -> None:
        """Tell engines to end, all at once; the stacks then wait for them."""
        for kind in kinds:
            if engine := self._running.pop(kind, None):
                engine.hang_up()

    def engine(self, kind: EngineKind) -> Engine:
        return self._running[kind]

    def start(self, kind: EngineKind, scene: Scene, stack: ExitStack) -> None:
        """Does not wait: all engines of a scene start at once. Nothing for one that runs."""
        if kind in self._running:
            return
        where = stack if kind.has_lora else self._always
        settings = self._settings(kind, scene)
        self._running[kind] = where.enter_context(running_engine(settings, self.folders.log(kind)))

    def _settings(self, kind: EngineKind, scene: Scene) -> EngineSettings:
        base = str(self.folders.base)
        match kind:
            case EngineKind.PLAIN:
                return EngineSettings(base, plugin=False, eager=self.eager)
            case EngineKind.EAGER:
                return EngineSettings(base, plugin=False, eager=True)
            case EngineKind.MERGED:
                merged = self.folders.merged(scene.ranks)
                return EngineSettings(merged, plugin=False, eager=self.eager)
            case EngineKind.STOCK | EngineKind.STACKSERVE:
                plugin = kind is EngineKind.STACKSERVE
                rank = scene.ranks.slot_rank
                return EngineSettings(base, plugin, self.slots, rank, self.eager)
