"""Servers as child processes, each with its own models; what is common to ours and the peers'."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.oip_models import MODEL_FILE, Encoding

START_SECONDS = 300
STOP_SECONDS = 30
POLL_SECONDS = 0.2
ASK_SECONDS = 5
BATCH_ROWS = 128
"""The most rows that a server computes together, where it counts them."""
LISTENING = re.compile(r"listening on http://[\w.]+:(\d+)")


class ServerFailed(Exception):
    """A server did not start; the message says why and where its log is."""


@dataclass(frozen=True)
class ServedModel:
    """A model as a server is to serve it."""

    name: str
    folder: Path
    outputs: int
    batched: bool = False

    @property
    def file(self) -> Path:
        return self.folder / MODEL_FILE


@dataclass(frozen=True)
class Launch:
    """How a server is started. `port` None: it chooses one and prints it."""

    command: Sequence[str]
    port: int | None
    ready_path: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """A server that is measured. `prepare` writes its files into a folder and says how to start it.
    `evicts`: it keeps to a budget of memory and loads on demand.
    """

    name: str
    encodings: tuple[Encoding, ...]
    prepare: Callable[[Sequence[ServedModel], Path], Launch]
    evicts: bool = False
    has_statistics: bool = False


@dataclass(frozen=True)
class Server:
    """A target that runs and has all its models ready, or registered where it loads on demand."""

    target: Target
    port: int
    process: int

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def told(self, path: str) -> Any:
        """The JSON that it answers a GET with. Raises OSError when it does not."""
        with urllib.request.urlopen(f"{self.address}{path}", timeout=ASK_SECONDS) as answer:
            return json.load(answer)


@contextmanager
def running_server(
    target: Target, models: Sequence[ServedModel], folder: Path, log: Path
) -> Iterator[Server]:
    """Its files are in `folder`. At the end neither it nor its children live."""
    folder.mkdir(parents=True)
    launch = target.prepare(models, folder)
    with log.open("w") as output:
        process = subprocess.Popen(
            launch.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env={**os.environ, **launch.environment},
            start_new_session=True,  # Ctrl-C is for us; and one signal reaches all its children
        )
    try:
        port = _wait_until_ready(process, launch, target, models, log)
        yield Server(target, port, process.pid)
    finally:
        _stop(process)


def _wait_until_ready(
    process: subprocess.Popen[bytes],
    launch: Launch,
    target: Target,
    models: Sequence[ServedModel],
    log: Path,
) -> int:
    paths = [launch.ready_path]
    if not target.evicts:
        paths += [f"/v2/models/{each.name}/ready" for each in models]
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        port = launch.port or _printed_port(log)
        while port and answers_ok(f"http://127.0.0.1:{port}{paths[0]}"):
            paths.pop(0)
            if not paths:
                return port
        time.sleep(POLL_SECONDS)
    ended = process.poll()
    what = f"is not ready after {START_SECONDS} s" if ended is None else f"ended with code {ended}"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    raise ServerFailed(f"{target.name} {what}: {(lines or ['it said nothing'])[-1]} ({log})")


def _printed_port(log: Path) -> int | None:
    found = LISTENING.search(log.read_text(errors="replace"))
    return int(found[1]) if found else None


def answers_ok(address: str) -> bool:
    """Whether a GET there is answered with 200."""
    try:
        with urllib.request.urlopen(address, timeout=ASK_SECONDS) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
