"""One runtime worker process: started, talked to over a channel, and ended with its context."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import stackserve
from stackserve.hosting.channel import Channel, ChannelClosed
from stackserve.processes import kill, resident_bytes
from stackserve.runtimes.protocol import RuntimeSpec
from stackserve.runtimes.recorder import Recorder, Work, make_recorder
from stackserve.workers.process import Child, LogTail, how_ended, start_child, worker_environment

MODULE = "stackserve.runtimes.worker"
STOP_GRACE_SECONDS = 0.2
"""It has nothing to tidy up."""


class NotStarted(Exception):
    """A worker did not come up; the message says why. `hopeless` means that no other would."""

    def __init__(self, message: str, *, hopeless: bool = False) -> None:
        super().__init__(message)
        self.hopeless = hopeless


@dataclass(frozen=True)
class ProcessPlan:
    """How the worker of a runtime is run."""

    runtime: str
    python: str
    """The interpreter of its virtual environment, which may be another than the gateway's."""
    scratch: Path
    """A folder for its temporary files."""
    lanes: int
    loaders: int
    threads: int
    memory_bytes: int | None
    most_body: int
    allow_unsafe: bool
    start_seconds: float


class RuntimeProcess:
    """A worker that has started. Made by `start_process`."""

    def __init__(
        self, runtime: str, child: Child, channel: Channel, recorder: Recorder, framework: str
    ) -> None:
        self.runtime = runtime
        self.pid = child.pid
        self.channel = channel
        self.framework = framework
        self.baseline = 0
        """Bytes of the process before it had any model."""
        self.expected_to_end = False
        self._child = child
        self._recorder = recorder

    def rss(self) -> int:
        """Bytes of memory that the process holds now; 0 when it is gone."""
        return resident_bytes(self.pid)

    def works(self) -> list[Work]:
        """What it does with which models, or did when it died."""
        return self._recorder.works()

    def kill(self) -> None:
        kill(self.pid)

    async def ended(self) -> str:
        """Wait for its end; what it was, in words."""
        await self.channel.closed.wait()
        return how_ended(await self._child.exited())


@asynccontextmanager
async def start_process(plan: ProcessPlan, tail: LogTail) -> AsyncIterator[RuntimeProcess]:
    """A worker that has imported its framework. Raises NotStarted."""
    ours, theirs = socket.socketpair()
    recorder_fd = make_recorder(plan.lanes + plan.loaders)
    recorder = Recorder(os.dup(recorder_fd))
    spec = RuntimeSpec(
        runtime=plan.runtime,
        socket_fd=theirs.fileno(),
        recorder_fd=recorder_fd,
        lanes=plan.lanes,
        loaders=plan.loaders,
        threads=plan.threads,
        memory_bytes=plan.memory_bytes,
        most_body=plan.most_body,
        allow_unsafe=plan.allow_unsafe,
    )
    ours.setblocking(False)
    _, channel = await asyncio.get_running_loop().create_unix_connection(Channel, sock=ours)
    command = (plan.python, "-m", MODULE)
    starting = start_child(
        command, tail, _environment(plan), (theirs.detach(), recorder_fd), STOP_GRACE_SECONDS
    )
    try:
        async with starting as child:
            child.when_exited(channel.close)
            child.tell(spec)
            process = await _started(child, channel, recorder, plan, tail)
            try:
                yield process
            finally:
                process.expected_to_end = True
    except FileNotFoundError:
        raise NotStarted(f"there is no {plan.python}", hopeless=True) from None
    finally:
        channel.close()
        recorder.close()


async def _started(
    child: Child, channel: Channel, recorder: Recorder, plan: ProcessPlan, tail: LogTail
) -> RuntimeProcess:
    try:
        async with asyncio.timeout(plan.start_seconds):
            started = await asyncio.shield(channel.started)
    except TimeoutError:
        raise NotStarted(
            f"not ready within {plan.start_seconds:g} s (start_timeout_seconds)"
        ) from None
    except ChannelClosed:
        code = await child.exited()
        raise NotStarted(tail.reason(), hopeless=code in (1, 2)) from None
    process = RuntimeProcess(plan.runtime, child, channel, recorder, started.framework)
    process.baseline = process.rss()
    return process


def _environment(plan: ProcessPlan) -> dict[str, str]:
    threads = str(plan.threads)
    environment = worker_environment(os.environ, plan.scratch) | {
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": "PASSIVE",
        "MALLOC_ARENA_MAX": "2",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    if plan.python != sys.executable:
        environment["PYTHONPATH"] = str(_package_alone(plan.scratch))
    return environment


def _package_alone(scratch: Path) -> Path:
    """A folder in which there is this package and nothing else of the gateway's environment."""
    folder = scratch / "package"
    folder.mkdir(exist_ok=True)
    link = folder / "stackserve"
    if not link.is_symlink():
        link.symlink_to(Path(stackserve.__file__).parent)
    return folder
