"""Load on an HTTP server on this machine: so many connections at once, or requests at given times.

The generator is a small C++ program (`csrc/http_load.cpp`), compiled on first use; without a compiler
`http_load_python` does the same at a higher price, which every result states as `generator_cpu`. It
checks nothing itself: it keeps each different answer to a request, with how often it came.

A plan on its standard input, little-endian: port u16, open loop u16, connections u32, seconds f64,
number of requests u32, length of the order u32; each request as length u32 and bytes; the order, u32
each; in an open loop the times at which they are due, f64 seconds each. On its standard output: CPU
seconds f64, elapsed seconds f64, number of answers u64; of all answers when they began and how long
they took, f64 seconds, then the status, i32 (0: none came); then every different answer: request u32,
status i32, count u64, length u32, bytes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from benchmarks.machine import ROOT

SOURCE = Path(__file__).parent / "csrc" / "http_load.cpp"
PROGRAMS = Path("~/.cache/stackserve/benchmarks").expanduser()
FLAGS = ("-O2", "-std=c++17", "-Wall", "-Wextra")
PYTHON = (sys.executable, "-m", "benchmarks.http_load_python")

PLAN = struct.Struct("<HHIdII")
LENGTH = struct.Struct("<I")
OUTCOME = struct.Struct("<ddQ")
COLUMNS = ("<f8", "<f8", "<i4")
"""Of all answers: when they began, how long they took, their status."""
KIND = struct.Struct("<IiQI")

NOT_KEPT = -1
"""The status of a request's answers after it had too many different ones."""
PATIENCE = 60
"""Seconds that the generator may take beyond the plan's."""

Floats = npt.NDArray[np.float64]


class LoadFailed(Exception):
    """No load could be put on the server; the message is the generator's."""


@dataclass(frozen=True)
class Plan:
    """What is sent to 127.0.0.1:`port`. `order` are indices of `requests`, each a whole HTTP request.

    Without `times` it is a closed loop: every connection sends the next one as soon as it has its
    answer, the order from its beginning again, for `seconds`. With `times` it is an open loop: each
    request is sent when it is due, or as soon after that as a connection is free.
    """

    port: int
    connections: int
    seconds: float
    requests: Sequence[bytes]
    order: npt.NDArray[np.uint32]
    times: Floats | None = None

    @property
    def encoded(self) -> bytes:
        is_open = self.times is not None
        size = (self.seconds, len(self.requests), len(self.order))
        parts = [PLAN.pack(self.port, is_open, self.connections, *size)]
        parts += [LENGTH.pack(len(each)) + each for each in self.requests]
        parts.append(self.order.astype("<u4").tobytes())
        if self.times is not None:
            parts.append(self.times.astype("<f8").tobytes())
        return b"".join(parts)


@dataclass(frozen=True)
class Kind:
    """An answer that a request had, and how often. `answer` is head and body of the first such one;
    empty when none came (status 0), or when they were not kept (status NOT_KEPT).
    """

    request: int
    status: int
    count: int
    answer: bytes


@dataclass(frozen=True)
class Outcome:
    """All answers, in the order in which they came. `began` is since the start; in an open loop it is
    when the request was due, so that `took` counts the wait for a server that fell behind.
    """

    began: Floats
    took: Floats
    status: npt.NDArray[np.int32]
    kinds: tuple[Kind, ...]
    seconds: float
    generator_cpu: float
    """Of one core, the share that the generator took."""


def poisson_times(rate: float, seconds: float, seed: int) -> Floats:
    """When requests are due that come at `rate` per second, independent of each other."""
    draws = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds * 1.2) + 100)
    times = np.cumsum(draws)
    return times[times < seconds]


def post(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """A whole request; the connection is kept."""
    fields = {"Host": "127.0.0.1", "Content-Length": str(len(body))} | headers
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def put_load(plan: Plan, generator: Sequence[str] | None = None) -> Outcome:
    """Runs the plan to its end. Raises LoadFailed when the server cannot be connected to."""
    try:
        done = subprocess.run(
            generator or best_generator(),
            input=plan.encoded,
            capture_output=True,
            timeout=plan.seconds + PATIENCE,
            cwd=ROOT,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise LoadFailed(f"the load generator did not end in {late.timeout:.0f} s") from late
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise LoadFailed(last or f"the load generator ended with code {done.returncode}")
    return read_outcome(done.stdout)


def read_outcome(written: bytes) -> Outcome:
    cpu, seconds, count = OUTCOME.unpack_from(written)
    at = OUTCOME.size
    columns = []
    for datatype in COLUMNS:
        columns.append(np.frombuffer(written, datatype, count, at))
        at += columns[-1].nbytes
    began, took, status = columns
    kinds = []
    while at < len(written):
        number, code, times, length = KIND.unpack_from(written, at)
        at += KIND.size
        kinds.append(Kind(number, code, times, written[at : at + length]))
        at += length
    return Outcome(began, took, status, tuple(kinds), seconds, cpu / max(seconds, 1e-9))


@cache
def best_generator() -> tuple[str, ...]:
    """The command of the C++ program, else of the one in Python."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return PYTHON
    program = PROGRAMS / f"http_load-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}"
    if not program.exists():
        try:
            compile_generator(compiler, program)
        except (OSError, subprocess.CalledProcessError) as failed:
            print(f"http_load: {SOURCE.name} cannot be compiled: {failed}", file=sys.stderr)
            return PYTHON
    return (str(program),)


def compile_generator(compiler: str, program: Path) -> None:
    """Appears at `program` in one step, so that two runs can compile at once."""
    program.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=program.parent) as folder:
        made = Path(folder) / program.name
        subprocess.run([compiler, *FLAGS, "-o", str(made), str(SOURCE)], check=True)
        made.replace(program)
