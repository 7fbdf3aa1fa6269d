"""What an adapter wrote into a KV block is gone before a request of others reads the block."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from stackserve.engine import compat
from stackserve.engine.kv_hygiene import CleanBlocks, TaintedBlocks
from tests.engine.scheduler_harness import Harness, Settings
from tests.engine.scheduler_memory import Memory, Work

ADAPTERS = (None, "a", "b")
IDS = st.integers(1, 9)


class Cleaning(CleanBlocks, AsyncScheduler):  # type: ignore[misc]  # vllm is untyped here
    """What is checked here, without the rest of our scheduler."""


class CleaningInOrder(CleanBlocks, Scheduler):  # type: ignore[misc]
    """The same over vLLM's scheduler that waits for each step."""


class LeftBehind(AssertionError):
    """A request reads what an adapter left."""


class WatchedMemory(Memory):
    """Zeroes the blocks that a step names, and knows who wrote to each place last."""

    def __init__(self, block_size: int) -> None:
        super().__init__(block_size)
        self.zeroed: list[list[int]] = []
        """Of each step."""
        self._writers: dict[tuple[int, int], str] = {}

    def works(self, scheduled: Any) -> list[Work]:
        named = scheduled.new_block_ids_to_zero or []
        self.zeroed.append(named)
        for cells in (self._cells, self._writers):
            for cell in [each for each in cells if each[0] in named]:
                del cells[cell]
        return super().works(scheduled)

    def compute(self, work: Work, adapter: str, tokens: Sequence[int]) -> None:
        """Attention reads the places behind a request's last token too, up to the end of a block."""
        super().compute(work, adapter, tokens)
        size, table = self._block_size, self.tables[work.request_id]
        for position in range(work.start, len(table) * size):
            cell = table[position // size], position % size
            if position < work.end:
                self._writers[cell] = adapter
            elif self._writers.get(cell, adapter) not in ("", adapter):
                raise LeftBehind(f"{work} reads what {self._writers[cell]} left in {cell}")


@pytest.fixture(autouse=True)
def _asked() -> None:
    """As the plug-in does in vLLM's processes."""
    compat.zero_blocks_on_request(CleanBlocks)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, demo_base: Path) -> Path:
    return demo_base


def watched(base: Path, scheduler: type, **changes: Any) -> tuple[Harness, WatchedMemory]:
    def make(arguments: dict[str, Any], clock: Any) -> tuple[Any, None]:
        arguments["kv_cache_config"].zeroes_on_request = issubclass(scheduler, CleanBlocks)
        return scheduler(**arguments), None

    harness = Harness(make, base, Settings(**changes))
    memory = WatchedMemory(harness.settings.block_size)
    harness.memory = memory
    return harness, memory


# The books


@given(st.lists(st.tuples(st.sampled_from(["taint", "clean"]), st.frozensets(IDS))), st.sets(IDS))
def test_a_block_is_tainted_from_an_adapters_request_until_it_is_zeroed(
    moves: list[tuple[str, frozenset[int]]], asked: set[int]
) -> None:
    tainted, last = TaintedBlocks(), {}
    for move, blocks in moves:
        (tainted.taint if move == "taint" else tainted.cleaned)(blocks)
        last |= dict.fromkeys(blocks, move)
    assert tainted.among(asked) == {each for each in asked if last.get(each) == "taint"}
    assert len(tainted) <= 9


# With vLLM's scheduler


@pytest.mark.parametrize("in_flight", [1, 2])
def test_vllms_own_scheduler_lets_the_base_read_what_an_adapter_left(
    base: Path, in_flight: int
) -> None:
    """The checks below can fail: this is what it looks like when they do."""
    harness, _ = watched(base, AsyncScheduler, in_flight=in_flight)
    harness.add("poison", "a", prompt=6)
    harness.run()
    harness.add("victim", None, prompt=6)
    with pytest.raises(LeftBehind):
        harness.run()


operations = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.sampled_from(ADAPTERS),
            st.integers(1, 14),  # tokens of the prompt
            st.booleans(),  # whether others have the same prompt
            st.integers(1, 9),  # tokens of the answer
        ),
        st.tuples(st.just("abort"), st.integers(0, 20)),
        st.tuples(st.just("steps"), st.integers(1, 4)),
    ),
    min_size=4,
    max_size=25,
)
kinds = st.fixed_dictionaries(
    {
        "in_flight": st.sampled_from([1, 2]),
        "prefix_caching": st.booleans(),
        "blocks": st.sampled_from([6, 9, 14]),  # the longest request needs 6: others are preempted
        "step_tokens": st.sampled_from([4, 16]),
    }
)


@settings(max_examples=150, deadline=None)
@given(kinds, operations)
def test_nobody_reads_what_another_adapter_left_whatever_comes_and_goes(
    base: Path, kind: dict[str, Any], todo: list[tuple[Any, ...]]
) -> None:
    scheduler = Cleaning if kind["in_flight"] > 1 else CleaningInOrder
    harness, memory = watched(base, scheduler, block_size=4, seats=4, **kind)
    for number, (what, *how) in enumerate(todo):
        if what == "add":
            adapter, length, shared, answer = how
            prompt = range(length) if shared else length
            harness.add(f"r{number}", adapter, prompt, answer)
        elif what == "abort":
            harness.abort(f"r{how[0]}")
        else:
            harness.run(how[0])
    harness.run()
    assert len(harness.scheduler._tainted) <= kind["blocks"]


def test_requests_of_the_base_alone_have_nothing_zeroed(base: Path) -> None:
    harness, memory = watched(base, Cleaning, blocks=9, in_flight=2)
    for number in range(8):
        harness.add(f"r{number}", None, prompt=6, max_tokens=9)
    harness.run()
    assert harness.preempted
    assert not any(memory.zeroed)


def test_a_block_is_zeroed_once_for_a_base_that_goes_on_to_use_it(base: Path) -> None:
    harness, memory = watched(base, Cleaning, prefix_caching=False)
    harness.add("poison", "a", prompt=3, max_tokens=1)
    harness.run()
    for number in range(3):
        harness.add(f"r{number}", None, prompt=3, max_tokens=1)
        harness.run()
    assert [each for each in memory.zeroed if each] == [[1]]


def test_a_block_that_a_step_fills_up_is_not_zeroed(base: Path) -> None:
    harness, memory = watched(base, Cleaning, prefix_caching=False, block_size=4)
    harness.add("poison", "a", prompt=10, max_tokens=1)
    harness.run()
    harness.add("next", "b", prompt=10, max_tokens=1)
    harness.run()
    (zeroed,) = (each for each in memory.zeroed if each)
    assert zeroed == [harness.memory.tables.get("next", zeroed)[-1]]


def test_a_prefix_found_in_the_cache_is_not_zeroed(base: Path) -> None:
    harness, memory = watched(base, Cleaning, block_size=4)
    for request_id in ("first", "again"):
        harness.add(request_id, "a", prompt=range(9), max_tokens=1)
        harness.run()
    assert harness.cached("again") == [8]


def test_what_a_model_has_zeroed_anyway_stays_zeroed(base: Path) -> None:
    """vLLM has every new block of some models zeroed, tainted or not."""

    def make(arguments: dict[str, Any], clock: Any) -> tuple[Any, None]:
        scheduler = Cleaning(**arguments)
        scheduler.needs_kv_cache_zeroing = True
        for manager in scheduler.kv_cache_manager.coordinator.single_type_managers:
            manager._record_new_block_ids = True
        return scheduler, None

    harness = Harness(make, base, Settings())
    memory = harness.memory = WatchedMemory(harness.settings.block_size)
    harness.add("one", None, prompt=6, max_tokens=1)
    harness.run()
    assert memory.zeroed[0] == [1, 2]


# What vLLM's engine is told


@pytest.mark.parametrize(("scheduler", "asked"), [(Cleaning, True), (AsyncScheduler, False)])
def test_workers_are_told_to_zero_for_our_scheduler_only(
    monkeypatch: pytest.MonkeyPatch, scheduler: type, asked: bool
) -> None:
    from vllm.v1.engine import core
    from vllm.v1.kv_cache_interface import KVCacheConfig

    made = KVCacheConfig(1, [], [])
    monkeypatch.setattr(core, "get_kv_cache_configs", lambda *_: [made])
    compat.zero_blocks_on_request(CleanBlocks)
    config = SimpleNamespace(scheduler_config=SimpleNamespace(get_scheduler_cls=lambda: scheduler))
    assert core.get_kv_cache_configs(config, [], []) == [made]
    assert made.needs_kv_cache_zeroing is asked
