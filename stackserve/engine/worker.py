"""The engine worker: one process that serves one stacked group with vLLM, on a Unix socket.

Started by the gateway as `python -m stackserve.engine.worker`; see `stackserve.protocol`.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from stackserve.lifeline import Events, take_spec
from stackserve.protocol import MAX_MESSAGE, AdapterFailed, Phase, Ready, WorkerSpec, key_of

if TYPE_CHECKING:
    from stackserve.engine.adapter_registry import AdapterRegistry

ENGINE_DIED = 70
"""Exit code when vLLM's engine process is gone (EX_SOFTWARE)."""

KV_CACHE_BYTES_ON_CPU = 2**30
LOOK_SECONDS = 0.25


def main() -> None:
    """Read the spec, serve until told to stop, and never outlive the gateway."""
    spec = take_spec()
    events = Events(spec.events_fd)
    events.send(Phase("importing vLLM"))
    import uvloop

    sys.exit(uvloop.run(_serve(spec, events)))


async def _serve(spec: WorkerSpec, events: Events) -> int:
    from stackserve.engine import compat, compat_adapters, compat_cpu
    from stackserve.engine.adapter_registry import AdapterRegistry
    from stackserve.engine.adapter_routes import add_adapter_routes

    arguments = compat.parse_engine_options(spec.options)
    compat_cpu.bound_kv_cache_on_cpu(arguments, KV_CACHE_BYTES_ON_CPU)
    events.send(Phase("starting the engine"))
    async with compat.open_engine(arguments) as engine:
        tasks = tuple(await engine.get_supported_tasks())
        app = await compat.build_openai_app(engine, arguments, tasks)
        registry = AdapterRegistry(app, partial(compat_adapters.ask_scheduler, engine))
        await _load_adapters(spec, registry, events)
        compat.answer_with_public_names(app, key_of)
        add_adapter_routes(app, registry)
        version = f"vLLM {compat.vllm_version()}"
        ready = Ready(tasks, engine.model_config.max_model_len, version)
        return await _answer(spec, app, engine, lambda: events.send(ready))


async def _load_adapters(spec: WorkerSpec, registry: AdapterRegistry, events: Events) -> None:
    """Know every adapter, and load the first `preload`; one that fails is reported, not fatal."""

    def progress(done: int) -> None:
        events.send(Phase("loading adapters", done, spec.preload))

    for failed, reason in await registry.open(spec.adapters, spec.preload, progress):
        events.send(AdapterFailed(failed.key, reason[:MAX_MESSAGE]))


async def _answer(spec: WorkerSpec, app: Any, engine: Any, on_ready: Any) -> int:
    """Serve HTTP on the socket until SIGTERM (0) or the engine's death (`ENGINE_DIED`)."""
    from stackserve.engine import compat
    from stackserve.socket_server import SocketServer

    server = SocketServer(app, spec.socket, on_ready)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve())
    while not stop.is_set() and not serving.done() and not compat.engine_is_dead(engine):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), LOOK_SECONDS)
    server.should_exit = True
    await serving
    return 0 if stop.is_set() else ENGINE_DIED


if __name__ == "__main__":
    main()
