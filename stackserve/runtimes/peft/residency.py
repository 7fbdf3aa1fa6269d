"""The adapters that the worker knows, and those that are in memory: at most `slots`, the last used."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from stackserve.protocol import AdapterFacts, AdapterSpec, ResidencyFacts
from stackserve.runtimes.peft.adapters import AdapterRefused
from stackserve.runtimes.peft.counting import Counting

logger = logging.getLogger(__name__)

Load = Callable[[Path], Any]
"""From an adapter's folder to a model. Raises AdapterRefused."""


class UnknownModel(Exception):
    """No model has that name here."""


class Adapters:
    """Of the generation thread alone. A model in use keeps its slot, a pinned one too."""

    def __init__(
        self, base_name: str, base: Any, slots: int, load: Load, counting: Counting
    ) -> None:
        self._base_name, self._base = base_name, base
        self._slots = slots
        self._load = load
        self._counting = counting
        self._known: dict[str, AdapterSpec] = {}
        self._resident: dict[str, Any] = {}
        """In order of use, the last used one last."""
        self._in_use: Counter[str] = Counter()
        self._base_storage = _storage(base)

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
            model = self._loaded(spec)
            if self._make_room():
                self._resident[spec.worker_model] = model
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
        numbers = self._counting.of(name)
        if name in self._resident:
            numbers.hits += 1
        elif not self._make_room():
            return None
        else:
            numbers.deferred += 1
            self._resident[name] = self._loaded(self._known[name])
        self._resident[name] = model = self._resident.pop(name)
        self._in_use[name] += 1
        return model

    def give_back(self, name: str) -> None:
        """It is used once less."""
        self._in_use[name] -= 1

    def facts(self, running: Counter[str], waiting: Counter[str]) -> ResidencyFacts:
        """Where each one is; the counters are of requests by name."""
        sizes = {name: self._bytes(model) for name, model in self._resident.items()}
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
                evicted = self._counting.of(name).evicted
                evicted["device"] = evicted.get("device", 0) + 1
                return True
        return False

    def _loaded(self, spec: AdapterSpec) -> Any:
        began = time.monotonic()
        try:
            model = self._load(Path(spec.folder))
        except AdapterRefused:
            self._counting.of(spec.worker_model).load_failures += 1
            raise
        seconds = time.monotonic() - began
        self._counting.loaded(spec.worker_model, seconds, self._bytes(model))
        return model

    def _bytes(self, model: Any) -> int:
        """Of the tensors that are its own."""
        own = {id(each): each for each in model.parameters() if id(each) not in self._base_storage}
        return sum(each.numel() * each.element_size() for each in own.values())


def _storage(model: Any) -> frozenset[int]:
    return frozenset(map(id, model.parameters()))
