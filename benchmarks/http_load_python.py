"""The load generator for machines without a C++ compiler; see `http_load`, whose plan it reads."""

from __future__ import annotations

import re
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from benchmarks.http_load import COLUMNS, KIND, LENGTH, NOT_KEPT, OUTCOME, PLAN, Plan

MOST_KINDS = 64
GRACE = 10.0
"""Seconds for answers that are still out when the plan's time is over."""
LONGEST_SLEEP = 0.1
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)

Key = tuple[int, int, bytes]
"""Request, status, body."""


@dataclass
class Connection:
    line: socket.socket
    request: int = 0
    since: float | None = None
    """When its request began; None while it has none."""
    answer: bytearray = field(default_factory=bytearray)


class Generator:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._order = plan.order.tolist()
        self._times: list[float] | None = None if plan.times is None else plan.times.tolist()
        self._next = 0
        self._connections = [Connection(self._connect()) for _ in range(plan.connections)]
        self._free = deque(self._connections)
        self.answers: list[tuple[float, float, int]] = []
        self.kinds: dict[Key, tuple[int, bytes]] = {}
        self._kinds_of = [0] * len(plan.requests)

    def run(self) -> float:
        """Seconds that it took."""
        self._start = time.monotonic()
        end = self._start + self._plan.seconds
        while time.monotonic() < end + GRACE:
            wait = self._send_due(end)
            out = [each.line for each in self._connections if each.since is not None]
            if not out and self._is_over(end):
                break
            for line in select.select(out, (), (), wait)[0]:
                self._receive(next(each for each in self._connections if each.line is line))
        for each in self._connections:
            if each.since is not None:
                self._finish(each, 0, b"")
        self._give_up(end + GRACE)
        return time.monotonic() - self._start

    def _is_over(self, end: float) -> bool:
        if self._times is None:
            return time.monotonic() >= end
        return self._next == len(self._order)

    def _connect(self) -> socket.socket:
        line = socket.create_connection(("127.0.0.1", self._plan.port), 5)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return line

    def _send_due(self, end: float) -> float:
        """Send what is due; the seconds until the next one is."""
        while self._free:
            now = since = time.monotonic()
            if self._times is not None:
                if self._next == len(self._order):
                    break
                since = self._start + self._times[self._next]
                if since > now:
                    return min(since - now, LONGEST_SLEEP)
            elif now >= end:
                break
            connection = self._free.popleft()
            connection.request = self._order[self._next % len(self._order)]
            connection.since = since
            self._next += 1
            try:
                connection.line.sendall(self._plan.requests[connection.request])
            except OSError:
                self._lose(connection)
        return LONGEST_SLEEP

    def _receive(self, connection: Connection) -> None:
        received = b""
        with suppress(OSError):
            received = connection.line.recv(65536)
        if not received:
            self._lose(connection)
            return
        answer = connection.answer
        answer += received
        head = answer.find(b"\r\n\r\n")
        if head < 0:
            return
        length = CONTENT_LENGTH.search(answer, 0, head)
        if length is None:
            self._lose(connection)
        elif len(answer) >= head + 4 + int(length[1]):
            self._finish(connection, int(answer.split(b" ", 2)[1]), bytes(answer[head + 4 :]))

    def _lose(self, connection: Connection) -> None:
        connection.line.close()
        connection.line = self._connect()
        self._finish(connection, 0, bytes(connection.answer))

    def _finish(self, connection: Connection, status: int, body: bytes) -> None:
        assert connection.since is not None
        took = time.monotonic() - connection.since
        request = connection.request
        self.answers.append((connection.since - self._start, took, status))
        key = (request, status, body)
        kept = bytes(connection.answer)
        if key not in self.kinds:
            if self._kinds_of[request] == MOST_KINDS:
                key, kept = (request, NOT_KEPT, b""), b""
            else:
                self._kinds_of[request] += 1
        self._count(key, kept)
        connection.since = None
        connection.answer.clear()
        self._free.append(connection)

    def _count(self, key: Key, answer: bytes) -> None:
        count, first = self.kinds.get(key, (0, answer))
        self.kinds[key] = (count + 1, first)

    def _give_up(self, when: float) -> None:
        """What was due and never sent has no answer."""
        due = (self._times or [])[self._next :]
        for since, request in zip(due, self._order[self._next :], strict=False):
            self.answers.append((since, when - self._start - since, 0))
            self._count((request, 0, b""), b"")


def read_plan(written: bytes) -> Plan:
    port, is_open, connections, seconds, count, length = PLAN.unpack_from(written)
    at = PLAN.size
    requests = []
    for _ in range(count):
        (size,) = LENGTH.unpack_from(written, at)
        at += LENGTH.size
        requests.append(written[at : at + size])
        at += size
    order = np.frombuffer(written, "<u4", length, at)
    times = np.frombuffer(written, "<f8", length, at + order.nbytes) if is_open else None
    return Plan(port, connections, seconds, requests, order, times)


def encoded(generator: Generator, cpu: float, seconds: float) -> Iterator[bytes]:
    """The outcome as `http_load` reads it."""
    columns = list(zip(*generator.answers, strict=True)) or [()] * len(COLUMNS)
    yield OUTCOME.pack(cpu, seconds, len(generator.answers))
    for column, datatype in zip(columns, COLUMNS, strict=True):
        yield np.asarray(column, datatype).tobytes()
    for (request, status, _), (count, answer) in generator.kinds.items():
        yield KIND.pack(request, status, count, len(answer)) + answer


def main() -> None:
    try:
        generator = Generator(read_plan(sys.stdin.buffer.read()))
    except OSError as failed:
        sys.exit(f"http_load: no connection: {failed}")
    before = time.process_time()
    seconds = generator.run()
    cpu = time.process_time() - before
    sys.stdout.buffer.write(b"".join(encoded(generator, cpu, seconds)))


if __name__ == "__main__":
    main()
