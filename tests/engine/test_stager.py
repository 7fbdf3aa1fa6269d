"""Stager threads: several adapters at once, each once, and a bad one costs only itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from stackserve.engine.adapter_host import Staged, StageFailed
from stackserve.engine.stager import MAX_REASON, Stager


class Reader:
    """Reads when it is let; knows how many read at once, and how often each was read."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.both = threading.Barrier(2, timeout=10)
        self.read: list[Any] = []

    def __call__(self, source: Any) -> tuple[str, int]:
        self.read.append(source)
        if source == "pair":
            self.both.wait()
        if source == "bad":
            raise OSError("unreadable " * 1000)
        assert self.go.wait(10)
        return f"weights of {source}", 7


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def stager(reader: Reader) -> Iterator[Stager[str]]:
    stager = Stager(reader, threads=2)
    yield stager
    reader.go.set()
    stager.close()


def collect(stager: Stager[str], count: int) -> dict[int, Any]:
    """The reports of `count` adapters, with their weights."""
    seen: dict[int, Any] = {}
    while len(seen) < count:
        for report, weights in stager.poll():
            seen[report.id] = (report, weights)
    return seen


def test_asking_returns_at_once_and_the_weights_come_later(
    stager: Stager[str], reader: Reader
) -> None:
    stager.stage(1, "a")
    assert stager.poll() == []
    reader.go.set()
    report, weights = collect(stager, 1)[1]
    assert weights == "weights of a"
    assert isinstance(report, Staged)
    assert report.num_bytes == 7


def test_two_are_read_at_once(stager: Stager[str], reader: Reader) -> None:
    reader.go.set()
    stager.stage(1, "pair")
    stager.stage(2, "pair")
    assert collect(stager, 2).keys() == {1, 2}


def test_one_that_is_being_read_is_not_read_again(stager: Stager[str], reader: Reader) -> None:
    stager.stage(1, "a")
    stager.stage(1, "a")
    reader.go.set()
    collect(stager, 1)
    assert reader.read == ["a"]
    stager.stage(1, "a")
    collect(stager, 1)
    assert reader.read == ["a", "a"]


def test_a_bad_one_is_reported_with_a_short_reason_and_the_others_are_read(
    stager: Stager[str], reader: Reader
) -> None:
    reader.go.set()
    stager.stage(1, "bad")
    stager.stage(2, "a")
    seen = collect(stager, 2)
    report, weights = seen[1]
    assert isinstance(report, StageFailed)
    assert report.reason.startswith("unreadable")
    assert len(report.reason) <= MAX_REASON
    assert weights is None
    assert isinstance(seen[2][0], Staged)
