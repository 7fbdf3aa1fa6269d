"""What the gateway and an engine worker say to each other, outside of HTTP.

The gateway writes one `WorkerSpec` as a line of JSON to the worker's standard input and keeps that
pipe open: its end means that the gateway is gone, and the worker kills itself. The worker writes one
`WorkerEvent` a line to the file descriptor `spec.events_fd`. Requests go over HTTP on `spec.socket`.
"""

from __future__ import annotations

from typing import Any

import msgspec


class AdapterSpec(msgspec.Struct, frozen=True):
    """One adapter, as the worker knows it."""

    key: str
    worker_model: str
    folder: str


class WorkerSpec(msgspec.Struct, frozen=True):
    """All that an engine worker needs to start. `options` are vLLM's, by name."""

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


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The worker answers on its socket. `tasks` are vLLM's names: generate, embed, …"""

    tasks: tuple[str, ...]
    max_model_len: int
    vllm_version: str


WorkerEvent = Phase | AdapterFailed | Ready
