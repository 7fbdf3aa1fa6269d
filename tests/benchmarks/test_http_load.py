"""Both load generators do the same: nothing is lost, nothing is hidden, and waiting counts."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from benchmarks.http_load import (
    NOT_KEPT,
    PYTHON,
    Kind,
    LoadFailed,
    Outcome,
    Plan,
    best_generator,
    poisson_times,
    post,
    put_load,
)
from benchmarks.http_load_python import MOST_KINDS
from benchmarks.oip_servers import free_port

Answer = Callable[[bytes], bytes | None]
"""Of a request; None closes the connection."""

REQUESTS = [post("/a", b"one", {}), post("/b", b"two", {})]


@pytest.fixture(params=[best_generator(), PYTHON], ids=lambda command: command[-1][-20:])
def generator(request: pytest.FixtureRequest) -> Sequence[str]:
    command: Sequence[str] = request.param
    return command


@contextmanager
def serving(answer: Answer) -> Iterator[int]:
    """A server on this machine, in a thread; its port."""

    class Line(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(ConnectionError):
                while (request := self.request.recv(65536)) and (reply := answer(request)):
                    self.request.sendall(reply)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Line) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-LENGTH: {len(body)}\r\n\r\n".encode() + body


def echo(request: bytes) -> bytes:
    return http(request.partition(b"\r\n\r\n")[2])


def closed(port: int, order: Sequence[int] = (0, 1), seconds: float = 0.1) -> Plan:
    return Plan(port, 4, seconds, REQUESTS, np.array(order, np.uint32))


def opened(port: int, times: Sequence[float], connections: int = 1) -> Plan:
    order = np.zeros(len(times), np.uint32)
    return Plan(port, connections, max(times), REQUESTS, order, np.array(times))


def counts(outcome: Outcome) -> dict[tuple[int, int, bytes], int]:
    return {
        (kind.request, kind.status, kind.answer.partition(b"\r\n\r\n")[2]): kind.count
        for kind in outcome.kinds
    }


def test_a_closed_loop_keeps_every_connection_busy_and_counts_each_answer(
    generator: Sequence[str],
) -> None:
    with serving(echo) as port:
        outcome = put_load(closed(port), generator)
    found = counts(outcome)
    assert found.keys() == {(0, 200, b"one"), (1, 200, b"two")}
    assert sum(found.values()) == len(outcome.took) > 8
    assert abs(found[0, 200, b"one"] - found[1, 200, b"two"]) <= 1
    assert set(outcome.status) == {200}
    assert outcome.took.min() > 0
    assert outcome.began.max() < 0.1
    assert 0 < outcome.generator_cpu < 2


def test_other_statuses_are_answers_too(generator: Sequence[str]) -> None:
    with serving(lambda _: http(b"no", "503 Service Unavailable")) as port:
        outcome = put_load(closed(port, [1]), generator)
    assert counts(outcome).keys() == {(1, 503, b"no")}
    assert set(outcome.status) == {503}


def test_a_connection_that_is_closed_fails_its_request_and_is_made_again(
    generator: Sequence[str],
) -> None:
    with serving(lambda request: None if b"one" in request else echo(request)) as port:
        outcome = put_load(closed(port), generator)
    assert counts(outcome).keys() == {(0, 0, b""), (1, 200, b"two")}
    assert (outcome.status == 0).sum() == counts(outcome)[0, 0, b""]


def test_an_answer_without_a_length_is_a_failure(generator: Sequence[str]) -> None:
    with serving(lambda _: b"HTTP/1.1 200 OK\r\n\r\n") as port:
        outcome = put_load(closed(port, [0]), generator)
    assert set(outcome.status) == {0}


def test_an_answer_may_come_in_pieces(generator: Sequence[str]) -> None:
    large = bytes(range(256)) * 2000
    with serving(lambda _: http(large)) as port:
        outcome = put_load(closed(port, [0]), generator)
    assert counts(outcome).keys() == {(0, 200, large)}


def test_after_too_many_different_answers_the_rest_is_only_counted(
    generator: Sequence[str],
) -> None:
    numbers = iter(range(1_000_000))
    with serving(lambda _: http(str(next(numbers)).encode())) as port:
        outcome = put_load(closed(port, [0]), generator)
    kept = [kind for kind in outcome.kinds if kind.status == 200]
    assert len(kept) == MOST_KINDS
    (rest,) = [kind for kind in outcome.kinds if kind not in kept]
    assert rest == Kind(0, NOT_KEPT, len(outcome.took) - MOST_KINDS, b"")


def test_an_open_loop_sends_each_request_when_it_is_due(generator: Sequence[str]) -> None:
    times = [0.02 * number for number in range(1, 11)]
    with serving(echo) as port:
        outcome = put_load(opened(port, times, connections=4), generator)
    assert np.allclose(np.sort(outcome.began), times)
    assert outcome.seconds >= max(times)
    assert set(outcome.status) == {200}


def test_in_an_open_loop_the_wait_for_a_connection_counts(generator: Sequence[str]) -> None:
    stall = threading.Event()

    def slow_at_first(request: bytes) -> bytes:
        if not stall.is_set():
            stall.set()
            threading.Event().wait(0.25)
        return echo(request)

    with serving(slow_at_first) as port:
        outcome = put_load(opened(port, [0.01, 0.02, 0.03, 0.3]), generator)
    waited = outcome.took[np.argsort(outcome.began)]
    assert (waited[:3] > 0.2).all()
    assert waited[3] < 0.2


def test_without_a_server_there_is_no_load(generator: Sequence[str]) -> None:
    with pytest.raises(LoadFailed, match="no connection"):
        put_load(closed(free_port()), generator)


def test_times_at_random_have_their_rate_and_repeat() -> None:
    times = poisson_times(1000, 5, seed=3)
    assert 4700 < len(times) < 5300
    assert times[-1] < 5
    gaps = np.diff(times)
    assert 0.9 < gaps.std() / gaps.mean() < 1.1
    assert np.array_equal(times, poisson_times(1000, 5, seed=3))


def test_a_request_is_whole_and_says_its_length() -> None:
    head, _, body = post("/v2", b"abc", {"Content-Type": "text/plain"}).partition(b"\r\n\r\n")
    assert body == b"abc"
    assert head.split(b"\r\n") == [
        b"POST /v2 HTTP/1.1", b"Host: 127.0.0.1", b"Content-Length: 3", b"Content-Type: text/plain",
    ]  # fmt: skip
