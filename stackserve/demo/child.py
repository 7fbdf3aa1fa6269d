"""Runs a child process, tells what it does while it lives, and never leaves it behind."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_TICK = 0.2


class ChildFailed(Exception):
    """A child process ended with an error; the text is the last thing that it said."""


def run_child(
    command: Sequence[str],
    *,
    log_dir: Path,
    on_tick: Callable[[str], None],
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a command to its end, calling `on_tick` with the last line it printed so far.

    Raises `ChildFailed` when it exits with an error; kills it when this process is interrupted.
    """
    with tempfile.TemporaryFile(dir=log_dir) as out, tempfile.TemporaryFile(dir=log_dir) as err:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **(env or {})},
        )
        try:
            while not _ended(child):
                on_tick(_last_line(out.fileno()))
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        if child.returncode != 0:
            said = _last_line(err.fileno()) or _last_line(out.fileno())
            raise ChildFailed(said or f"it ended with exit code {child.returncode}")


def _ended(child: subprocess.Popen[bytes]) -> bool:
    try:
        child.wait(_TICK)
    except subprocess.TimeoutExpired:
        return False
    return True


def _last_line(descriptor: int) -> str:
    # pread leaves the offset alone, which the child shares and writes at.
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, 4096, max(0, size - 4096)).decode(errors="replace")
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    return lines[-1] if lines else ""
