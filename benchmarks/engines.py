"""Engines as child processes, so that several with different settings live at once and take turns."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.machine import ROOT

STOP_SECONDS = 20
SETTLE_SECONDS = 1.5
"""vLLM's processes spin for a second after their last batch, then sleep. Nothing is timed before."""

ENVIRONMENT = {
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",  # else vLLM leaves a core to its front end
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


class EngineFailed(Exception):
    """An engine did not start or died; the message is the last line of its log, and where that is."""


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is started with; `slots` 0 turns LoRA off, `eager` turns compilation off."""

    model: str
    plugin: bool
    slots: int = 0
    slot_rank: int = 0
    eager: bool = False


@dataclass(frozen=True)
class Row:
    """One request of a batch: a prompt in tokens, and the folder of its adapter or None."""

    prompt: tuple[int, ...]
    adapter: str | None = None


@dataclass(frozen=True)
class Answers:
    """The tokens of every row, and the seconds that the whole batch took."""

    tokens: tuple[tuple[int, ...], ...]
    seconds: float


class Engine:
    """A running engine. Sleeps while it is not asked, after `SETTLE_SECONDS`."""

    _last_asked: ClassVar[tuple[Engine | None, float]] = (None, 0.0)

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log
        self._ready = False

    def wait_until_ready(self) -> None:
        """Raises EngineFailed when it cannot start."""
        if not self._ready:
            self._ready = bool(self._read()["ready"])

    def settle(self) -> None:
        """Wait until the engine that was asked before, if it was another, has gone to sleep."""
        last, when = Engine._last_asked
        if last is not self:
            time.sleep(max(0.0, when + SETTLE_SECONDS - time.monotonic()))

    def generate(self, rows: Sequence[Row], tokens: int) -> Answers:
        """Greedy answers of exactly `tokens` tokens to all rows at once."""
        reply = self.ask({"rows": [asdict(row) for row in rows], "tokens": tokens})
        return Answers(tuple(tuple(row) for row in reply["tokens"]), reply["seconds"])

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """One line to the child, and the line that it answers."""
        self.wait_until_ready()
        self.say(message)
        reply = self._read()
        Engine._last_asked = self, time.monotonic()
        return reply

    def hang_up(self) -> None:
        """Let it end: several that are told so end at the same time."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def say(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the log below tells more
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EngineFailed(f"{self._last_words()} (all of it: {self._log})")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _last_words(self) -> str:
        lines = [
            line for line in self._log.read_text(errors="replace").splitlines() if line.strip()
        ]
        errors = [line for line in lines if re.match(r"\S*(Error|Exception)\b", line)]
        return (errors or lines or ["it said nothing"])[-1]


@contextmanager
def running_engine(
    settings: EngineSettings, log: Path, child: str = "benchmarks.engine_child"
) -> Iterator[Engine]:
    """Start an engine, without waiting for it; at the end neither it nor its children live.

    `child` is the module that runs it and answers lines.
    """
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", child],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=ROOT,
            env=engine_environment(dict(os.environ), settings.plugin),
            text=True,
            start_new_session=True,  # Ctrl-C is for us; and one signal reaches all its children
        )
    engine = Engine(process, log)
    try:
        engine.say(asdict(settings))
        yield engine
    finally:
        _stop(process)


def engine_environment(inherited: dict[str, str], plugin: bool) -> dict[str, str]:
    """VLLM_PLUGINS= keeps every plug-in out; unset lets the one that is installed register."""
    rest = {name: value for name, value in inherited.items() if name != "VLLM_PLUGINS"}
    return rest | ENVIRONMENT | ({} if plugin else {"VLLM_PLUGINS": ""})


def _stop(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
