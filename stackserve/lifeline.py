"""The worker's end of `stackserve.protocol`: take the spec, report events, die with the gateway."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import TypeVar

import msgspec

from stackserve.processes import kill, members_of
from stackserve.protocol import WorkerEvent, WorkerSpec

STDIN = 0

Spec = TypeVar("Spec")


class Events:
    """The way back to the gateway: one JSON event a line."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._pipe = os.fdopen(fd, "wb", buffering=0)

    def send(self, event: WorkerEvent) -> None:
        self._pipe.write(msgspec.json.encode(event) + b"\n")


def take_spec() -> WorkerSpec:
    """The spec of an engine worker, which from then on ends with the gateway."""
    spec = read_spec(WorkerSpec)
    end_with_gateway(Path(spec.socket).parent)
    return spec


def read_spec(kind: type[Spec]) -> Spec:
    """One line of standard input.

    Reads the descriptor itself: a daemon thread must not hold sys.stdin's lock when Python exits.
    """
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(STDIN, 65536)
        if not part:
            raise EOFError("standard input ended before the spec")
        line += part
    return msgspec.json.decode(line, type=kind)


def end_with_gateway(folder: Path | None = None) -> None:
    """From now on the end of standard input is the end of this process and its descendants; `folder`,
    which the gateway can remove no more, is removed.
    """
    threading.Thread(target=_die_with_gateway, args=(folder,), daemon=True).start()


def _die_with_gateway(folder: Path | None) -> None:
    while os.read(STDIN, 4096):
        pass
    for pid, is_tracker in members_of(os.getpgrp()):
        if pid != os.getpid() and not is_tracker:
            kill(pid)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    kill(os.getpid())
