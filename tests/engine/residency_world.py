"""A world in simulated time around `Residency`: requests that take a while, and seats without end."""

from __future__ import annotations

from dataclasses import dataclass, field

from stackserve.engine.adapter_host import MemoryHost
from stackserve.engine.residency import Residency
from stackserve.engine.slot_policy import PolicySettings
from stackserve.engine.tiers import Tier, Work

TICK = 0.1
"""Seconds of a step."""
ROOMY = 1 << 40


class Events:
    """Counts what `Residency` reports."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def loaded(self, key: str, seconds: float, num_bytes: int) -> None:
        self.seen.append(("loaded", key))

    def load_failed(self, key: str) -> None:
        self.seen.append(("failed", key))

    def evicted(self, key: str, tier: str) -> None:
        self.seen.append((f"evicted from {tier}", key))

    def drained(self, key: str) -> None:
        self.seen.append(("drained", key))


@dataclass
class World:
    """Requests are sent with a length in steps; those of resident adapters start at the next step."""

    slots: int
    policy: PolicySettings = field(default_factory=PolicySettings)
    host_bytes: int = ROOMY
    stagers: int = 2

    def __post_init__(self) -> None:
        self.now = 0.0
        self.host = MemoryHost()
        self.events = Events()
        self.residency = Residency(
            self.slots,
            self.host,
            self.events,
            self.policy,
            host_bytes=self.host_bytes,
            stagers=self.stagers,
        )
        self.waiting: dict[int, list[tuple[float, int]]] = {}
        self.running: dict[int, list[int]] = {}
        self.waits: list[tuple[int, float]] = []
        """(adapter, seconds) of every request that has begun."""
        self.failed: list[tuple[int, str]] = []

    def send(self, adapter: int, length: int = 1, priority: int = 0) -> bool:
        """Whether its adapter was on the device."""
        hit = self.residency.arrived(adapter, f"a{adapter}@digest", adapter, self.now)
        self.residency.enqueued(adapter, priority, self.now)
        self.waiting.setdefault(adapter, []).append((self.now, length))
        return hit

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            work = {each: Work(len(of), max(of)) for each, of in self.running.items()}
            for failure in self.residency.advance(self.now, work):
                for _ in self.waiting.pop(failure.id, ()):
                    self.residency.dequeued(failure.id)
                self.failed.append((failure.id, failure.reason))
            self.residency.check_integrity()
            assert self.host.slots.items() >= {
                (slot, each) for slot, each in enumerate(self.residency.slots) if each is not None
            }
            self._admit()
            self._compute()
            self.now += TICK

    def _admit(self) -> None:
        for adapter in [each for each in self.waiting if self.residency.is_resident(each)]:
            for since, length in self.waiting.pop(adapter):
                self.residency.dequeued(adapter)
                self.running.setdefault(adapter, []).append(length)
                self.waits.append((adapter, self.now - since))

    def _compute(self) -> None:
        for adapter, lengths in list(self.running.items()):
            left = [each - 1 for each in lengths if each > 1]
            if left:
                self.running[adapter] = left
            else:
                del self.running[adapter]

    def on_device(self) -> set[int]:
        return set(self.residency.residents())


def tier_of(world: World, adapter: int) -> Tier | None:
    """None when nothing is known of the adapter."""
    record = world.residency.get(adapter)
    return record.tier if record else None
