"""The adapters that the worker knows, and those that are in memory: at most `slots`, the last used."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackserve.meters import AdapterMeters
from stackserve.protocol import AdapterFacts, AdapterSpec, ResidencyFacts
from stackserve.runtimes.peft.adapters import AdapterRefused

Load = Callable[[Path], Any]
"""From an adapter's folder to a model. Raises AdapterRefused."""


class UnknownModel(Exception):
    """No model has that name here."""


@dataclass(frozen=True)
class _Resident:
    """An adapter in memory, and the bytes of the tensors that are its own."""

    model: Any
    num_bytes: int


class Adapters:
    """Of the generation thread alone. A model in use keeps its slot, a pinned one too."""

    def __init__(
        self, base_name: str, base: Any, slots: int, load: Load, meters: AdapterMeters
    ) -> None:
        self._base_name, self._base = base_name, base
        self._slots = slots
        self._load = load
        self._meters = meters
        self._known: dict[str, AdapterSpec] = {}
        self._resident: dict[str, _Resident] = {}
        """In order of use, the last used one last."""
        self._in_use: Counter[str] = Counter()
        self._of_the_base = frozenset(map(id, base.parameters()))

    def know(self, specs: Iterable[AdapterSpec]) -> None:
        """Let requests name them; each is loaded when it is first asked for."""
        self._known |= {spec.worker_model: spec for spec in specs}

    def knows(self, name: str) -> bool:
        return name == self._base_name or name in self._known

    def add(self, spec: AdapterSpec) -> None:
        """Load it now, whether or not there is a slot for it then; of a known one, change the pin.

        Raises AdapterRefused, after which nothing has changed.
        """
        if spec.worker_model not in self._known:
            resident = self._loaded(spec)
            if self._make_room():
                self._resident[spec.worker_model] = resident
        self._known[spec.worker_model] = spec

    def forget(self, name: str) -> None:
        """Raises UnknownModel. What runs with it ends as it would have."""
        if name not in self._known:
            raise UnknownModel(name)
        del self._known[name]
        self._resident.pop(name, None)

    def take(self, name: str) -> Any | None:
        """The model, in use until it is given back; None while all slots are in use.

        Raises AdapterRefused and UnknownModel.
        """
        if name == self._base_name:
            return self._base
        if name not in self._known:
            raise UnknownModel(name)
        spec = self._known[name]
        if name in self._resident:
            self._meters.hit(spec.key)
        elif not self._make_room():
            return None
        else:
            self._meters.deferred(spec.key)
            self._resident[name] = self._loaded(spec)
        self._resident[name] = resident = self._resident.pop(name)
        self._in_use[name] += 1
        return resident.model

    def give_back(self, name: str) -> None:
        """It is used once less."""
        self._in_use[name] -= 1

    def facts(self, running: Counter[str], waiting: Counter[str]) -> ResidencyFacts:
        """Where each one is; the counters are of requests by name."""
        sizes = {name: resident.num_bytes for name, resident in self._resident.items()}
        return ResidencyFacts(
            slots=self._slots,
            host_bytes=sum(sizes.values()),
            host_limit=0,
            adapters=tuple(
                AdapterFacts(
                    key=spec.key,
                    tier="device" if name in self._resident else "disk",
                    num_bytes=sizes.get(name, 0),
                    running=running[name],
                    waiting=waiting[name],
                    pinned=spec.pinned,
                )
                for name, spec in self._known.items()
            ),
            base_key=self._base_name,
            base_running=running[self._base_name],
            base_waiting=waiting[self._base_name],
        )

    def _make_room(self) -> bool:
        """Whether one more fits, after the one that was used longest ago has gone, if need be."""
        if len(self._resident) < self._slots:
            return True
        for name in self._resident:
            if not self._in_use[name] and not self._known[name].pinned:
                del self._resident[name]
                self._meters.evicted(self._known[name].key, "device")
                return True
        return False

    def _loaded(self, spec: AdapterSpec) -> _Resident:
        began = time.monotonic()
        try:
            model = self._load(Path(spec.folder))
        except AdapterRefused:
            self._meters.load_failed(spec.key)
            raise
        seconds = time.monotonic() - began
        own = (each for each in model.parameters() if id(each) not in self._of_the_base)
        resident = _Resident(model, sum(each.numel() * each.element_size() for each in own))
        self._meters.loaded(spec.key, seconds, resident.num_bytes)
        return resident
