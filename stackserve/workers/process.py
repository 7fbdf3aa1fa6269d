"""One engine worker process and its descendants: start, events, log, and a sure end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from stackserve.processes import kill, members_of
from stackserve.protocol import WorkerEvent, WorkerSpec

STDOUT = 1
TAIL_LINES = 200
MAX_LINE_BYTES = 64 * 1024
STOP_GRACE_SECONDS = 5.0
TRACKER_GRACE_SECONDS = 1.0
LAST_WORDS_SECONDS = 0.1
"""How long after a worker's end its output is waited for; descendants may hold it open for longer."""
POLL_SECONDS = 0.05

COMMAND = (sys.executable, "-m", "stackserve.engine.worker")
COMMANDS = {
    "vllm": COMMAND,
    "transformers": (sys.executable, "-m", "stackserve.runtimes.peft.worker"),
}
"""How an engine worker is started, by `engine.runtime`."""

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME")
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
NEVER_INHERITED = (
    "VLLM_API_KEY",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    "VLLM_ALLOW_INSECURE_SERIALIZATION",
    "VLLM_LORA_RESOLVER_CACHE_DIR",
    "VLLM_SERVER_DEV_MODE",
)
"""A secret, with which the worker would refuse the gateway, and switches that would let a request
load code or adapters which nobody validated."""


def worker_environment(parent: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """What a worker inherits: an allow-list, so that secrets and PYTHON* switches stay outside.

    Its temporary files go to `scratch`, which is ours to remove: vLLM leaves its sockets behind.
    """
    kept = {
        name: value
        for name, value in parent.items()
        if name in INHERITED
        or (name.startswith(INHERITED_PREFIXES) and name not in NEVER_INHERITED)
    }
    return kept | {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CONFIGURE_LOGGING": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(scratch),
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


class _Watch(asyncio.SubprocessProtocol):
    """Hears a process's output and its end. The end is heard at once, even while descendants of the
    process hold its pipes open (`asyncio.subprocess.Process.wait` would wait for them).
    """

    def __init__(self, tail: LogTail) -> None:
        self.exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.silent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tail = tail
        self._partial = b""

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._add(line)
        self._partial = partial[:MAX_LINE_BYTES]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == STDOUT:
            if self._partial:
                self._add(self._partial)
            self.silent.set_result(None)

    def _add(self, line: bytes) -> None:
        self._tail.add(line[:MAX_LINE_BYTES].decode("utf-8", "replace").rstrip())

    def process_exited(self) -> None:
        self.exited.set_result(None)


class ProtocolBroken(Exception):
    """A worker reported something that is not an event."""


def how_ended(code: int) -> str:
    """A process's exit code, negative for a signal, in words."""
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


class Child:
    """A running process. Made by `start_child`; its process group ends with the context."""

    def __init__(self, transport: asyncio.SubprocessTransport, watch: _Watch) -> None:
        self._transport = transport
        self._watch = watch
        self.pid: int = transport.get_pid()

    async def exited(self) -> int:
        """Wait for its end and its last words; its exit code, negative for a signal."""
        await asyncio.shield(self._watch.exited)
        await asyncio.wait((self._watch.silent,), timeout=LAST_WORDS_SECONDS)
        code = self._transport.get_returncode()
        assert code is not None
        return code

    def when_exited(self, call: Callable[[], object]) -> None:
        """Have something called as soon as it ends."""
        self._watch.exited.add_done_callback(lambda _: call())

    def tell(self, spec: msgspec.Struct) -> None:
        """Write a line of JSON to its standard input, whose end is that of this process."""
        lifeline = self._transport.get_pipe_transport(0)
        assert isinstance(lifeline, asyncio.WriteTransport)
        lifeline.write(msgspec.json.encode(spec) + b"\n")

    async def stop(self, grace: float) -> None:
        """Ask it to end, and after `grace` seconds kill what is left of its process group."""
        with contextlib.suppress(ProcessLookupError):
            self._transport.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.exited(), grace)
        await kill_group(self.pid)
        await self.exited()


class WorkerProcess:
    """A running engine worker. Made by `start_worker`."""

    def __init__(self, child: Child, events: asyncio.StreamReader) -> None:
        self.pid = child.pid
        self.exited = child.exited
        self._events = events

    async def events(self) -> AsyncGenerator[WorkerEvent, None]:
        """What the worker reports, until it ends. Raises ProtocolBroken."""
        try:
            async for line in self._events:
                yield msgspec.json.decode(line, type=WorkerEvent)
        except (msgspec.MsgspecError, ValueError) as error:  # ValueError: a line without an end
            raise ProtocolBroken(f"it reported something that is not an event: {error}") from None


@asynccontextmanager
async def start_child(
    command: Sequence[str],
    tail: LogTail,
    environment: Mapping[str, str],
    pass_fds: Sequence[int],
    stop_grace: float = STOP_GRACE_SECONDS,
) -> AsyncIterator[Child]:
    """Start a process in a process group of its own, whose output goes to `tail`; leaving the context
    ends the whole group. The descriptors are the child's alone from then on.
    """
    try:
        transport, watch = await asyncio.get_running_loop().subprocess_exec(
            lambda: _Watch(tail),
            *command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
    finally:
        for fd in pass_fds:
            os.close(fd)
    child = Child(transport, watch)
    try:
        yield child
    finally:
        try:
            await _to_the_end(child.stop(stop_grace))
        finally:
            transport.close()


@asynccontextmanager
async def start_worker(
    spec: Callable[[int], WorkerSpec],
    tail: LogTail,
    environment: Mapping[str, str],
    command: Sequence[str] = COMMAND,
    stop_grace: float = STOP_GRACE_SECONDS,
) -> AsyncIterator[WorkerProcess]:
    """Start an engine worker as a child; `spec` gets the number of its end of the event pipe."""
    read_fd, write_fd = os.pipe()
    async with (
        _stream(read_fd) as (events, end_of_events),
        start_child(command, tail, environment, (write_fd,), stop_grace) as child,
    ):
        child.when_exited(end_of_events)  # even if descendants hold the pipe
        child.tell(spec(write_fd))
        yield WorkerProcess(child, events)


async def _to_the_end(work: Coroutine[None, None, None]) -> None:
    """Do the work, and heed a cancellation only then."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


@asynccontextmanager
async def _stream(fd: int) -> AsyncIterator[tuple[asyncio.StreamReader, Callable[[], None]]]:
    """The reading end of a pipe, and what ends it."""
    stream = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(fd, "rb", buffering=0)
    )
    try:
        yield stream, transport.close
    finally:
        transport.close()
        await asyncio.sleep(0)  # it lets go of the descriptor in the loop's next turn


async def kill_group(group: int) -> None:
    """SIGKILL every process of a group, resource trackers last, and wait until none is left."""
    deadline = asyncio.get_running_loop().time() + TRACKER_GRACE_SECONDS
    while members := members_of(group):
        late = asyncio.get_running_loop().time() > deadline
        for pid, is_tracker in members:
            if late or not is_tracker:
                kill(pid)
        await asyncio.sleep(POLL_SECONDS)
