"""The scheduler's host: commands go to every rank in order, and an adapter is there when all have it."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import Future
from typing import Any

import pytest

from stackserve.engine.adapter_host import Report, Staged, StageFailed, WorkerHost


class Rank:
    """One worker's slots: writes down what it is told, and reports what the test gives it."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.reports: list[Report] = []

    def stage(self, *args: Any) -> None:
        self.told.append(("stage", *args))

    def place(self, *args: Any) -> None:
        self.told.append(("place", *args))

    def drop(self, *args: Any) -> None:
        self.told.append(("drop", *args))

    def clear(self, *args: Any) -> None:
        self.told.append(("clear", *args))

    def poll(self) -> list[Report]:
        self.told.append(("poll",))
        reports, self.reports = self.reports, []
        return reports


class Workers:
    """vLLM's `collective_rpc` over some ranks; `breaks` is a command that fails there."""

    def __init__(self, count: int) -> None:
        self.ranks = [Rank() for _ in range(count)]
        self.breaks = ""
        self.calls: dict[str, int] = defaultdict(int)

    def rpc(self, method: Any, args: tuple[Any, ...] = (), non_block: bool = False) -> Future[Any]:
        assert non_block, "nothing may wait for a worker"
        self.calls[method.name] += 1
        future: Future[Any] = Future()
        if method.name == self.breaks:
            future.set_exception(RuntimeError("it broke"))
        else:
            future.set_result([method(rank, *args) for rank in self.ranks])
        return future


def host_of(workers: Workers) -> WorkerHost:
    return WorkerHost(workers.rpc, lambda rank: rank)


def test_commands_reach_every_rank_in_order() -> None:
    workers = Workers(2)
    host = host_of(workers)
    host.stage(1, "source")
    host.place(1, 0)
    host.clear(0)
    host.drop(1)
    expected = [("stage", 1, "source"), ("place", 1, 0), ("clear", 0), ("drop", 1)]
    assert [rank.told for rank in workers.ranks] == [expected, expected]


def test_nothing_is_asked_while_nothing_is_under_way() -> None:
    workers = Workers(1)
    host = host_of(workers)
    for _ in range(5):
        assert host.poll() == []
    assert workers.calls["poll"] == 0


def test_an_adapter_is_staged_when_every_rank_has_its_part() -> None:
    workers = Workers(2)
    host = host_of(workers)
    host.stage(1, "source")
    workers.ranks[0].reports = [Staged(1, 10, 0.5)]
    assert host.poll() == []
    assert host.poll() == [], "one rank is not enough"
    workers.ranks[1].reports = [Staged(1, 11, 0.7)]
    assert host.poll() == []
    assert host.poll() == [Staged(1, 21, 0.7)]


def test_an_adapter_that_one_rank_cannot_read_has_failed_and_the_others_drop_it() -> None:
    workers = Workers(2)
    host = host_of(workers)
    host.stage(1, "source")
    workers.ranks[0].reports = [Staged(1, 10, 0.5)]
    workers.ranks[1].reports = [StageFailed(1, "no file")]
    host.poll()
    assert host.poll() == [StageFailed(1, "no file")]
    assert ("drop", 1) in workers.ranks[0].told


def test_a_command_that_breaks_a_worker_is_not_passed_over() -> None:
    workers = Workers(1)
    workers.breaks = "place"
    host = host_of(workers)
    host.place(1, 0)
    with pytest.raises(RuntimeError, match="it broke"):
        host.poll()
