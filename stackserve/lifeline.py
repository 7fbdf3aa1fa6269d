"""The worker's end of `stackserve.protocol`: take the spec, report events, die with the gateway."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import msgspec

from stackserve.processes import kill, members_of
from stackserve.protocol import WorkerEvent, WorkerSpec

STDIN = 0


class Events:
    """The way back to the gateway: one JSON event a line."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._pipe = os.fdopen(fd, "wb", buffering=0)

    def send(self, event: WorkerEvent) -> None:
        self._pipe.write(msgspec.json.encode(event) + b"\n")


def take_spec() -> WorkerSpec:
    """Read the spec from standard input, and from then on end with the gateway.

    Reads the descriptor itself: a daemon thread must not hold sys.stdin's lock when Python exits.
    """
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(STDIN, 65536)
        if not part:
            raise EOFError("standard input ended before the spec")
        line += part
    spec = msgspec.json.decode(line, type=WorkerSpec)
    folder = Path(spec.socket).parent
    threading.Thread(target=_die_with_gateway, args=(folder,), daemon=True).start()
    return spec


def _die_with_gateway(folder: Path) -> None:
    """Wait for the end of standard input; then take down this process group, the engine's processes
    too, and remove the folder that the gateway can remove no more.
    """
    while os.read(STDIN, 4096):
        pass
    for pid, is_tracker in members_of(os.getpgrp()):
        if pid != os.getpid() and not is_tracker:
            kill(pid)
    shutil.rmtree(folder, ignore_errors=True)
    kill(os.getpid())
