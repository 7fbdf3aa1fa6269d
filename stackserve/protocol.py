"""What the gateway and an engine worker say to each other, outside of HTTP.

The gateway writes one `WorkerSpec` as a line of JSON to the worker's standard input and keeps that
pipe open: its end means that the gateway is gone, and the worker kills itself. The worker writes one
`WorkerEvent` a line to the file descriptor `spec.events_fd`. Requests go over HTTP on `spec.socket`, and
so does what there is to say about adapters, at `ADAPTERS_PATH`: GET answers with an `AdaptersSnapshot`,
which the gateway turns into metrics; PUT of an `AdapterSpec` loads that adapter, then lets requests name
it; DELETE of `ADAPTERS_PATH/{worker_model}` forgets one.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import msgspec


class AdapterSpec(msgspec.Struct, frozen=True):
    """One adapter, as the worker knows it."""

    key: str
    worker_model: str
    folder: str
    weight: float = 1.0
    """Its share of the engine's work where there is more than can be done at once."""
    pinned: bool = False
    """Always on the device."""


def key_of(worker_model: str) -> str:
    """The inference key in a name `key@digest`; the name itself without a digest."""
    return worker_model.rpartition("@")[0] or worker_model


class WorkerSpec(msgspec.Struct, frozen=True):
    """All that an engine worker needs to start. `options` are its engine's, by name."""

    socket: str
    events_fd: int
    adapters: tuple[AdapterSpec, ...]
    preload: int
    """How many adapters to load before being ready; the rest load at their first request."""
    options: dict[str, Any]


class Phase(msgspec.Struct, frozen=True, tag=True):
    """The worker has begun a step of its start. `total` is 0 where there is nothing to count."""

    name: str
    done: int = 0
    total: int = 0


class AdapterFailed(msgspec.Struct, frozen=True, tag=True):
    """The engine itself refused an adapter that had passed validation."""

    key: str
    message: str
    """Of `MAX_MESSAGE` characters at most."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The worker answers on its socket. `tasks` are vLLM's names: generate, embed, …"""

    tasks: tuple[str, ...]
    max_model_len: int
    engine: str
    """What computes, with its version, for people to read."""
    note: str = ""
    """What they should know of it."""


WorkerEvent = Phase | AdapterFailed | Ready

MAX_MESSAGE = 2000

SCHEDULER = "stackserve.engine.scheduler.AdapterScheduler"
"""An engine's scheduler, by name: the gateway imports no engine."""

ADAPTERS_PATH = "/stackserve/adapters"
"""A 404 there means that the engine counts nothing."""

WAIT_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
GAP_BOUNDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10)
"""Upper bounds of the buckets, in seconds: of waits and loads, and of pauses between tokens."""

TIERS = ("staging", "host", "device")
"""Where an adapter's weights are when not on disk alone: on their way to host memory, there, or in a
slot of the device.
"""

OTHER_KEY = "_other"
"""Stands for all keys beyond those that are counted one by one. It is no possible key."""


class Tally(msgspec.Struct):
    """A histogram. `counts[i]` are the observations that fit under bound i but not under the one
    before; the last are those above all bounds.
    """

    counts: list[int]
    sum: float = 0.0

    @classmethod
    def of(cls, bounds: tuple[float, ...]) -> Tally:
        return cls([0] * (len(bounds) + 1))

    def observe(self, bounds: tuple[float, ...], value: float) -> None:
        self.counts[bisect_left(bounds, value)] += 1
        self.sum += value

    def copy(self) -> Tally:
        return Tally(self.counts.copy(), self.sum)


def _waits() -> Tally:
    return Tally.of(WAIT_BOUNDS)


def _gaps() -> Tally:
    return Tally.of(GAP_BOUNDS)


class KeyNumbers(msgspec.Struct):
    """What has happened to one inference key since its worker started; they only grow."""

    key: str
    arrived: int = 0
    finished: dict[str, int] = msgspec.field(default_factory=dict)
    """By outcome: stop, length, abort, error, repetition."""
    prompt_tokens: int = 0
    generated_tokens: int = 0
    queue: Tally = msgspec.field(default_factory=_waits)
    first_token: Tally = msgspec.field(default_factory=_waits)
    gap: Tally = msgspec.field(default_factory=_gaps)
    hits: int = 0
    deferred: int = 0
    loads: int = 0
    load_failures: int = 0
    load_seconds: float = 0.0
    loaded_bytes: int = 0
    evicted: dict[str, int] = msgspec.field(default_factory=dict)
    """By the tier that was left: device, host."""
    drains: int = 0

    def copy(self) -> KeyNumbers:
        """Shares nothing with the original."""
        return msgspec.structs.replace(
            self,
            finished=self.finished.copy(),
            evicted=self.evicted.copy(),
            queue=self.queue.copy(),
            first_token=self.first_token.copy(),
            gap=self.gap.copy(),
        )


class AdapterFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """One adapter now: one version of the weights of `key`."""

    key: str
    tier: str
    """One of `TIERS`, or disk."""
    num_bytes: int = 0
    running: int = 0
    waiting: int = 0
    """Requests in the batch, and those that are not."""
    pinned: bool = False
    draining: bool = False
    """Is in a slot, but takes no new request there."""


class ResidencyFacts(msgspec.Struct, frozen=True):
    """Where all adapters are now. One that is on disk and asked for by nobody may be left out."""

    slots: int
    """Adapters that fit on the device, pinned ones included."""
    host_bytes: int
    """Of adapters in host memory, copies of those on the device included."""
    host_limit: int
    adapters: tuple[AdapterFacts, ...] = ()
    base_key: str = "base"
    base_running: int = 0
    base_waiting: int = 0


class AdaptersSnapshot(msgspec.Struct, frozen=True):
    """The answer of `ADAPTERS_PATH`. An adapter whose key is not in `keys` belongs to `OTHER_KEY`."""

    keys: tuple[KeyNumbers, ...] = ()
    loads: Tally = msgspec.field(default_factory=_waits)
    """Seconds of each load, of all keys."""
    residency: ResidencyFacts | None = None
