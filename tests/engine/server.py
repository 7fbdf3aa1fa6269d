"""A real `stackserve` process for tests: started from a file, its port read from what it prints."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from openai import AsyncOpenAI

ALL_CORES = {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}
"""vLLM leaves a core to its front end, which on two cores halves what tests can compute."""

START_SECONDS = 240
STOP_SECONDS = 20


@dataclass
class Server:
    """A running server and what it printed so far."""

    process: subprocess.Popen[str]
    folder: Path
    scratch: Path
    """Its folder for temporary files."""
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> AsyncOpenAI:
        """The official client, without retries that would hide a failure."""
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0, timeout=120)

    def printed(self) -> str:
        return (self.folder / "printed").read_text()

    def status(self) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=10) as answer:
                body: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                body = json.load(error)
        return body

    def sockets(self) -> list[Path]:
        """The workers' sockets that exist."""
        return list(self.scratch.glob("stackserve-*/*.sock"))

    def worker_pid(self) -> int | None:
        pid: int | None = self.status()["groups"][0]["worker_pid"]
        return pid

    def wait_ready(self, unlike_pid: int | None = None) -> None:
        """Until the first group answers, from another worker than `unlike_pid`."""

        def ready() -> bool:
            group = self.status()["groups"][0]
            return group["state"] == "ready" and group["worker_pid"] not in (None, unlike_pid)

        wait_until(ready, START_SECONDS, lambda: f"not ready: {self.status()}\n{self.printed()}")

    async def engine_metric(self, name: str) -> float:
        """A gauge of the engine itself, asked on the worker's own socket."""
        (socket,) = self.sockets()
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
            session.get("http://worker/metrics") as answer,
        ):
            text = await answer.text()
        return sum(float(v) for v in re.findall(rf"^{name}{{[^}}]*}} (\S+)$", text, re.M))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)


@contextmanager
def running_server(folder: Path, *arguments: str) -> Iterator[Server]:
    """`python -m stackserve ARGUMENTS` with its temporary files and logs in `folder`."""
    folder.mkdir(parents=True)
    scratch = Path(tempfile.mkdtemp(prefix="ss-"))  # short: a socket's path has at most 107 bytes
    environment = (
        os.environ
        | ALL_CORES
        | {
            "TMPDIR": str(scratch),
            "XDG_STATE_HOME": str(folder / "state"),
        }
    )
    with (folder / "printed").open("w") as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", "stackserve", *arguments],
            stdout=printed,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
        )
    server = Server(process, folder, scratch, port=0)
    try:
        found: list[str] = []

        def listening() -> bool:
            assert process.poll() is None, server.printed()
            found[:] = re.findall(r"listening on http://[\d.]+:(\d+)", server.printed())
            return bool(found)

        wait_until(listening, START_SECONDS, server.printed)
        server.port = int(found[0])
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(STOP_SECONDS)
        shutil.rmtree(scratch)


def wait_until(
    condition: Callable[[], bool], seconds: float, explain: Callable[[], str] = lambda: ""
) -> None:
    """Look again and again until the condition holds; fail with an explanation after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.05)


async def wait_until_metric(server: Server, name: str, wanted: float, seconds: float) -> float:
    """Until an engine metric has a value; how many seconds that took."""
    began = time.monotonic()
    while await server.engine_metric(name) != wanted:
        assert time.monotonic() - began < seconds, f"{name} is not {wanted} after {seconds} s"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


def descendants(pid: int) -> list[int]:
    """All living processes under a process, by /proc."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] not in "ZX":
                parents[int(entry.name)] = int(fields[1])
    found = [pid]
    for known in found:
        found.extend(child for child, parent in parents.items() if parent == known)
    return found[1:]


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def shared_memory() -> set[str]:
    """The names of all shared memory, whoever made it."""
    return {entry.name for entry in Path("/dev/shm").iterdir()}
