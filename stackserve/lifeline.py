"""The worker's end of `stackserve.protocol`: take the spec, report events, die with the gateway."""

from __future__ import annotations

import os
import signal
import threading

import msgspec

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
    threading.Thread(target=_die_with_gateway, daemon=True).start()
    return msgspec.json.decode(line, type=WorkerSpec)


def _die_with_gateway() -> None:
    """Wait for the end of standard input, then kill this process group: the engine's processes too."""
    while os.read(STDIN, 4096):
        pass
    os.killpg(0, signal.SIGKILL)
