"""The engine worker of transformers: one process that serves one stacked group on a Unix socket.

Started by the gateway as `python -m stackserve.runtimes.peft.worker`; see `stackserve.protocol`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from stackserve.lifeline import Events, take_spec
from stackserve.meters import AdapterMeters
from stackserve.protocol import MAX_MESSAGE, AdapterFailed, Phase, Ready, WorkerSpec
from stackserve.socket_server import SocketServer

if TYPE_CHECKING:
    from stackserve.runtimes.peft.foundation import Foundation
    from stackserve.runtimes.peft.generation import Generation

BAD_OPTIONS = 2
"""Exit code when the base cannot be served so: another start would fail too."""

NOTE = "slower than vLLM: one adapter a batch"


def main() -> None:
    """Read the spec, serve until told to stop, and never outlive the gateway."""
    spec = take_spec()
    events = Events(spec.events_fd)
    events.send(Phase("importing transformers"))
    from stackserve.runtimes.peft.foundation import BaseUnusable, load_foundation

    events.send(Phase("loading the base"))
    options = spec.options
    try:
        base = load_foundation(Path(options["model"]), options["dtype"], options["max_model_len"])
    except BaseUnusable as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(BAD_OPTIONS)
    generation = _generation(spec, base, events)
    generation.start()
    ready = Ready(("generate",), base.max_model_len, _engine(), NOTE)
    asyncio.run(_serve(spec, base, generation, lambda: events.send(ready)))


def _generation(spec: WorkerSpec, base: Foundation, events: Events) -> Generation:
    """With every adapter known and the first ones loaded; one that fails is reported, not fatal."""
    from stackserve.runtimes.peft.adapters import AdapterRefused, load_adapter
    from stackserve.runtimes.peft.batch import padding_is_exact
    from stackserve.runtimes.peft.generation import Generation
    from stackserve.runtimes.peft.residency import Adapters

    options, meters = spec.options, AdapterMeters()
    load = partial(load_adapter, base.model, device=base.device)
    adapters = Adapters(
        options["served_model_name"], base.model, options["adapter_slots"], load, meters
    )
    for number, adapter in enumerate(spec.adapters[: spec.preload]):
        events.send(Phase("loading adapters", number, spec.preload))
        try:
            adapters.add(adapter)
        except AdapterRefused as error:
            events.send(AdapterFailed(adapter.key, str(error)[:MAX_MESSAGE]))
    adapters.know(spec.adapters[spec.preload :])
    pads = padding_is_exact(base.model, base.vocabulary)
    return Generation(adapters, meters, options["max_num_seqs"], pads=pads)


def _engine() -> str:
    return f"transformers {version('transformers')} with PEFT {version('peft')}"


async def _serve(
    spec: WorkerSpec, base: Foundation, generation: Generation, on_ready: Callable[[], None]
) -> None:
    """Answer on the socket until SIGTERM."""
    from stackserve.runtimes.peft.routes import Api

    app = Api(base, generation, spec.options["seed"]).app()
    server = SocketServer(app, spec.socket, on_ready)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(
            number, partial(setattr, server, "should_exit", True)
        )
    await server.serve()


if __name__ == "__main__":
    main()
