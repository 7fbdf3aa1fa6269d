"""One engine worker process and its descendants: start, events, log, and a sure end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from stackserve.protocol import WorkerEvent, WorkerSpec

TAIL_LINES = 200
MAX_LINE_BYTES = 64 * 1024
STOP_GRACE_SECONDS = 5.0
TRACKER_GRACE_SECONDS = 1.0
POLL_SECONDS = 0.05

COMMAND = (sys.executable, "-m", "stackserve.engine.worker")

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "USER", "LOGNAME")
INHERITED_PREFIXES = (
    "VLLM_",
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
    "OMP_",
    "TORCH",
    "XDG_",
    "LD_",
    "TRITON_",
)


def worker_environment(parent: Mapping[str, str]) -> dict[str, str]:
    """What a worker inherits: an allow-list, so that secrets and PYTHON* switches stay outside."""
    kept = {
        name: value
        for name, value in parent.items()
        if name in INHERITED or name.startswith(INHERITED_PREFIXES)
    }
    return kept | {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CONFIGURE_LOGGING": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }


@dataclass
class LogTail:
    """The last lines that a worker wrote, bounded; each line also goes to `sink`."""

    sink: Callable[[str], None]
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))

    def add(self, line: str) -> None:
        self.lines.append(line)
        self.sink(line)

    def reason(self) -> str:
        """The line that best says why a worker died: the last one that names an error."""
        for line in reversed(self.lines):
            if "rror:" in line and "Engine core initialization failed" not in line:
                return line.strip()[-400:]
        return self.lines[-1].strip()[-400:] if self.lines else "it wrote no log"


class WorkerProcess:
    """A running worker. Made by `start_worker`; its process group ends with the context."""

    def __init__(
        self, process: asyncio.subprocess.Process, events: asyncio.StreamReader, tail: LogTail
    ) -> None:
        self._process = process
        self._events = events
        self.tail = tail

    @property
    def pid(self) -> int:
        return self._process.pid

    async def events(self) -> AsyncIterator[WorkerEvent]:
        """What the worker reports, until it ends."""
        async for line in self._events:
            yield msgspec.json.decode(line, type=WorkerEvent)

    async def exited(self) -> int:
        """Wait for the end of the worker; its exit code, negative for a signal."""
        return await self._process.wait()

    async def stop(self) -> None:
        """Ask the worker to end, then make sure that nothing of its process group is left."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), STOP_GRACE_SECONDS)
        await kill_group(self._process.pid)
        await self._process.wait()


@asynccontextmanager
async def start_worker(
    spec: Callable[[int], WorkerSpec],
    log: Callable[[str], None],
    environment: Mapping[str, str],
    command: Sequence[str] = COMMAND,
) -> AsyncIterator[WorkerProcess]:
    """Start a worker in a process group of its own; leaving the context ends the whole group.

    `spec` gets the number of the worker's end of the event pipe.
    """
    read_fd, write_fd = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(environment),
            pass_fds=(write_fd,),
            start_new_session=True,
            limit=MAX_LINE_BYTES,
        )
    except BaseException:
        os.close(read_fd)
        raise
    finally:
        os.close(write_fd)
    tail = LogTail(log)
    reading = asyncio.create_task(_read_log(process, tail))
    async with _open_pipe(read_fd) as events:
        worker = WorkerProcess(process, events, tail)
        assert process.stdin is not None
        try:
            process.stdin.write(msgspec.json.encode(spec(write_fd)) + b"\n")
            with contextlib.suppress(ConnectionError):
                await process.stdin.drain()
            yield worker
        finally:
            await asyncio.shield(worker.stop())
            await reading
            process.stdin.close()


@asynccontextmanager
async def _open_pipe(fd: int) -> AsyncIterator[asyncio.StreamReader]:
    """The read end of a pipe as an asyncio stream."""
    stream = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(fd, "rb", buffering=0)
    )
    try:
        yield stream
    finally:
        transport.close()


async def _read_log(process: asyncio.subprocess.Process, tail: LogTail) -> None:
    """Read the worker's output for as long as it lives, so that a full pipe never stops it."""
    assert process.stdout is not None
    while True:
        try:
            line = await process.stdout.readline()
        except ValueError:  # a line over MAX_LINE_BYTES: the stream has dropped it
            continue
        if not line:
            return
        tail.add(line.decode("utf-8", "replace").rstrip())


async def kill_group(group: int) -> None:
    """SIGKILL every process of a group and wait until none is left.

    Python's resource tracker goes last: it removes the shared memory that the others leave behind.
    """
    deadline = asyncio.get_running_loop().time() + TRACKER_GRACE_SECONDS
    while members := _members(group):
        late = asyncio.get_running_loop().time() > deadline
        for pid, is_tracker in members:
            if late or not is_tracker:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(POLL_SECONDS)


def _members(group: int) -> list[tuple[int, bool]]:
    """(pid, is it a resource tracker?) of each living process of a group."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue  # it ended while we looked
        state, process_group = stat[0], int(stat[2])
        if process_group == group and state not in "ZX":
            found.append((int(entry.name), b"resource_tracker" in command))
    return found
