"""A worker process: what it inherits, what is kept of its output, and that all of it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from stackserve.protocol import WorkerEvent, WorkerSpec
from stackserve.workers.process import (
    MAX_LINE_BYTES,
    TAIL_LINES,
    LogTail,
    ProtocolBroken,
    WorkerProcess,
    start_worker,
    worker_environment,
)
from tests.running import PATIENCE, eventually, living

SCRATCH = Path(tempfile.gettempdir())


def tail() -> LogTail:
    return LogTail(lambda line: None)


def spec(fd: int) -> WorkerSpec:
    return WorkerSpec("/s", fd, (), 0, {"events_fd": fd})


@asynccontextmanager
async def script(
    code: str, kept: LogTail | None = None, stop_grace: float = 5
) -> AsyncIterator[WorkerProcess]:
    """A worker that is this Python code; `line()` gives it the spec, `event(…)` reports."""
    prelude = (
        "import json, os, signal, subprocess, sys, time\n"
        "spec = json.loads(sys.stdin.readline())\n"
        "def event(text): os.write(spec['events_fd'], text.encode() + b'\\n')\n"
    )
    command = (sys.executable, "-c", prelude + code)
    environment = worker_environment(os.environ, SCRATCH)
    async with start_worker(spec, kept or tail(), environment, command, stop_grace) as worker:
        yield worker


async def events(worker: WorkerProcess) -> list[WorkerEvent]:
    async with asyncio.timeout(PATIENCE):
        return [event async for event in worker.events()]


PHASE = """event('{"type": "Phase", "name": "%s"}')\n"""


@pytest.mark.parametrize(
    "name",
    [
        "OPENAI_API_KEY",
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "OCI_CLI_KEY_CONTENT",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "VLLM_API_KEY",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
        "VLLM_SERVER_DEV_MODE",
        "http_proxy",
    ],
)
def test_secrets_and_dangerous_switches_are_not_inherited(name: str) -> None:
    assert name not in worker_environment({name: "x"}, SCRATCH)


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "VLLM_LOGGING_LEVEL"]
)
def test_what_an_engine_needs_is_inherited(name: str) -> None:
    assert worker_environment({name: "x"}, SCRATCH)[name] == "x"


def test_an_engine_is_offline_whatever_the_parent_says() -> None:
    assert worker_environment({"HF_HUB_OFFLINE": "0"}, SCRATCH)["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "it wrote no log"),
        (["  last  "], "last"),
        (["ValueError: no room", "done"], "ValueError: no room"),
        (["KeyError: a", "ValueError: b"], "ValueError: b"),
        (
            ["ValueError: no room", "RuntimeError: Engine core initialization failed. See above."],
            "ValueError: no room",
        ),
        (["x" * 1000], "x" * 400),
    ],
)
def test_the_reason_is_the_last_line_that_names_an_error(lines: list[str], reason: str) -> None:
    kept = tail()
    for line in lines:
        kept.add(line)
    assert kept.reason() == reason


def test_the_tail_keeps_the_last_lines_and_passes_all_on() -> None:
    passed: list[str] = []
    kept = LogTail(passed.append)
    for number in range(3 * TAIL_LINES):
        kept.add(str(number))
    assert list(kept.lines) == passed[-TAIL_LINES:]
    assert len(passed) == 3 * TAIL_LINES


async def test_a_line_without_an_end_is_bounded_and_the_last_one_is_kept() -> None:
    kept = tail()
    code = f"sys.stdout.write('x' * {20 * MAX_LINE_BYTES} + '\\nOSError: last words')"
    async with script(code, kept) as worker:
        assert await asyncio.wait_for(worker.exited(), PATIENCE) == 0
    assert [len(line) for line in kept.lines] == [MAX_LINE_BYTES, len("OSError: last words")]
    assert kept.reason() == "OSError: last words"


async def test_output_that_is_no_text_is_kept_legible() -> None:
    kept = tail()
    async with script("sys.stdout.buffer.write(b'\\xff\\xfe hi\\n')", kept) as worker:
        await asyncio.wait_for(worker.exited(), PATIENCE)
    assert list(kept.lines) == ["�� hi"]


async def test_events_end_with_the_worker_though_its_children_hold_the_pipes() -> None:
    code = PHASE % "one" + "subprocess.Popen(('sleep', '600'), pass_fds=(spec['events_fd'],))"
    async with script(code) as worker:
        assert [type(event).__name__ for event in await events(worker)] == ["Phase"]
        assert await asyncio.wait_for(worker.exited(), PATIENCE) == 0
        assert living(worker.pid)
    assert not living(worker.pid)


@pytest.mark.parametrize(
    "report",
    [
        pytest.param("'not JSON'", id="no JSON"),
        pytest.param("'{}'", id="no type"),
        pytest.param("""'{"type": "Nonsense"}'""", id="unknown type"),
        pytest.param("""'{"type": "Ready"}'""", id="incomplete"),
        pytest.param(f"'x' * {3 * MAX_LINE_BYTES}", id="huge"),
    ],
)
async def test_a_report_that_is_no_event_breaks_the_protocol(report: str) -> None:
    async with script(f"event({report})") as worker:
        with pytest.raises(ProtocolBroken, match="not an event"):
            await events(worker)


async def test_a_worker_that_ignores_sigterm_is_killed_with_its_grandchildren() -> None:
    grandchild = "import subprocess; subprocess.run(('sleep', '600'))"
    code = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"subprocess.Popen((sys.executable, '-c', {grandchild!r}))\n"
        "time.sleep(600)"
    )
    async with script(code, stop_grace=0.1) as worker:
        await eventually(lambda: len(living(worker.pid)) == 3)
    assert not living(worker.pid)


async def test_a_worker_that_heeds_sigterm_may_clean_up() -> None:
    code = (
        "def end(*_):\n    print('clean', flush=True)\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n" + PHASE % "up" + "time.sleep(600)"
    )
    kept = tail()
    async with script(code, kept) as worker:
        await anext(worker.events())
        began = time.monotonic()
    assert time.monotonic() - began < 4
    assert list(kept.lines) == ["clean"]


async def test_a_cancellation_while_it_stops_leaves_nothing_behind() -> None:
    code = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + PHASE % "up" + "time.sleep(600)"
    entered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    leave = asyncio.Event()

    async def live() -> None:
        async with script(code, stop_grace=0.3) as worker:
            await anext(worker.events())
            entered.set_result(worker.pid)
            await leave.wait()

    life = asyncio.create_task(live())
    pid = await entered
    leave.set()
    await asyncio.sleep(0)
    life.cancel()
    await asyncio.gather(life, return_exceptions=True)
    assert life.cancelled()
    assert not living(pid)


async def test_the_exit_code_of_a_signal_is_negative() -> None:
    async with script("time.sleep(600)") as worker:
        os.kill(worker.pid, signal.SIGKILL)
        assert await asyncio.wait_for(worker.exited(), PATIENCE) == -signal.SIGKILL


async def test_a_command_that_does_not_exist_leaks_no_pipe() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        async with start_worker(spec, tail(), {}, ("/nowhere/python",)):
            pass
    assert set(os.listdir("/proc/self/fd")) <= before
