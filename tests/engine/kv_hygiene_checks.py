"""Checks of `stackserve.engine.kv_hygiene` with vLLM's schedulers, without an engine.

`python -m tests.engine.kv_hygiene_checks` prints the name of each that holds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec, SlidingWindowSpec
from vllm.v1.worker.cpu_model_runner import CPUModelRunner

from stackserve.engine import compat_cpu, compat_kv
from stackserve.engine.kv_hygiene import CleanBlocks
from tests.engine.scheduler_harness import Harness
from tests.engine.scheduler_model import Memory, Work
from tests.engine.scheduler_setup import Settings
from tests.tiny_models import write_base

MODEL = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
WINDOW = 6


class Cleaning(CleanBlocks, AsyncScheduler):  # type: ignore[misc]  # vllm is untyped here
    """What is checked, without the rest of our scheduler."""


class CleaningInOrder(CleanBlocks, Scheduler):  # type: ignore[misc]
    """The same on vLLM's scheduler that waits for the output of each step."""


class LeftBehind(AssertionError):
    """A request reads what another adapter left."""


class WatchedMemory(Memory):
    """Zeroes the blocks that a step names, and knows who wrote to each place last."""

    def __init__(self, block_size: int, windowed: bool) -> None:
        super().__init__(block_size)
        self.zeroed: list[int] = []
        """Blocks in the order in which they were zeroed."""
        self._windowed = windowed
        self._writers: dict[tuple[int, int], str] = {}

    def works(self, scheduled: Any) -> list[Work]:
        named = scheduled.new_block_ids_to_zero or []
        self.zeroed += named
        for cells in (self._cells, self._writers):
            for cell in [each for each in cells if each[0] in named]:
                del cells[cell]
        return super().works(scheduled)

    def write(self, work: Work, adapter: str, tokens: Sequence[int]) -> None:
        """Attention reads beyond a request's last token too, at most to the end of its last block."""
        if not self._windowed:  # else what is behind the window may be others'
            super().write(work, adapter, tokens)
        size, table = self._block_size, self.tables[work.request_id]
        for position in range(work.start, len(table) * size):
            cell = table[position // size], position % size
            if position < work.end:
                self._writers[cell] = adapter
            elif self._writers.get(cell, adapter) not in ("", adapter):
                raise LeftBehind(f"{work} reads what {self._writers[cell]} left in {cell}")


def play(
    base: Path, scheduler: type, *, windowed: bool = False, **changes: Any
) -> tuple[Harness, WatchedMemory]:
    def make(arguments: dict[str, Any], clock: Any) -> tuple[Any, None]:
        config = arguments["kv_cache_config"]
        config.zeroes_on_request = issubclass(scheduler, CleanBlocks)
        if windowed:
            (group,) = config.kv_cache_groups
            full = group.kv_cache_spec
            window = SlidingWindowSpec(
                block_size=full.block_size,
                num_kv_heads=full.num_kv_heads,
                head_size=full.head_size,
                dtype=full.dtype,
                sliding_window=WINDOW,
            )
            config.kv_cache_groups[:] = [KVCacheGroupSpec(group.layer_names, window)]
        return scheduler(**arguments), None

    harness = Harness(make, base, replace(Settings(), **changes))
    memory = WatchedMemory(harness.settings.block_size, windowed)
    harness.model.memory = memory
    return harness, memory


def ask(harness: Harness, request_id: str, adapter: str | None, length: int, answer: int) -> None:
    harness.add(request_id, adapter, prompt=length, max_tokens=answer)
    harness.run()


@contextlib.contextmanager
def left_behind() -> Iterator[None]:
    try:
        yield
    except LeftBehind:
        return
    raise AssertionError("nothing was left behind")


def vllms_own_schedulers_let_the_base_read_what_an_adapter_left(base: Path) -> None:
    """The checks below can fail: this is how."""
    for scheduler, in_flight in ((Scheduler, 1), (AsyncScheduler, 2)):
        for windowed in (False, True):
            harness, _ = play(base, scheduler, windowed=windowed, in_flight=in_flight)
            ask(harness, "poison", "a", 6, 9)
            with left_behind():
                ask(harness, "victim", None, 1, 9)


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.sampled_from((None, "a", "b")),
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
KINDS = st.fixed_dictionaries(
    {
        "in_flight": st.sampled_from((1, 2)),
        "windowed": st.booleans(),
        "prefix_caching": st.booleans(),
        "blocks": st.sampled_from((6, 9, 14)),  # 6 hold the longest request; others are preempted
        "step_tokens": st.sampled_from((4, 16)),
    }
)


def nobody_reads_what_another_adapter_left_whatever_comes_and_goes(base: Path) -> None:
    @settings(max_examples=300, deadline=None, database=None, derandomize=True)
    @given(KINDS, OPERATIONS)
    def holds(kind: dict[str, Any], operations: list[tuple[Any, ...]]) -> None:
        scheduler = Cleaning if kind["in_flight"] > 1 else CleaningInOrder
        harness, memory = play(base, scheduler, block_size=4, seats=4, **kind)
        for number, (what, *how) in enumerate(operations):
            if what == "add":
                adapter, length, shared, answer = how
                prompt = range(length) if shared else length
                harness.add(f"r{number}", adapter, prompt, answer)
            elif what == "abort":
                harness.abort(f"r{how[0]}")
            else:
                harness.run(how[0])
        harness.run()
        adapters = {how[0] for what, *how in operations if what == "add"} - {None}
        assert adapters or not memory.zeroed

    holds()


def requests_of_the_base_have_nothing_zeroed_even_when_they_are_preempted(base: Path) -> None:
    harness, memory = play(base, Cleaning, blocks=9, in_flight=2)
    for number in range(8):
        harness.add(f"r{number}", None, prompt=6, max_tokens=9)
    harness.run()
    assert any(step.preempted for step in harness.steps)
    assert not memory.zeroed


def a_block_is_zeroed_once_for_a_base_that_goes_on_to_use_it(base: Path) -> None:
    harness, memory = play(base, Cleaning)
    ask(harness, "poison", "a", 3, 1)
    for number in range(3):
        ask(harness, f"r{number}", None, 3, 1)
    assert len(memory.zeroed) == 1


def of_the_blocks_that_a_step_fills_up_none_is_zeroed(base: Path) -> None:
    harness, memory = play(base, Cleaning, block_size=4, blocks=3)
    ask(harness, "poison", "a", 10, 1)
    harness.add("next", "b", prompt=10, max_tokens=2)
    harness.run(1)
    assert memory.zeroed == memory.tables["next"][2:]


def a_block_that_was_filled_up_is_zeroed_before_it_is_filled_in_parts(base: Path) -> None:
    """It may still hold what an adapter left in layers of another group."""
    harness, memory = play(base, Cleaning, block_size=4, blocks=1, prefix_caching=False)
    ask(harness, "poison", "a", 4, 1)
    ask(harness, "fills it", None, 4, 1)
    assert memory.zeroed == []
    ask(harness, "fills half", None, 2, 1)
    assert memory.zeroed == [1]


def a_prefix_found_in_the_cache_is_not_zeroed(base: Path) -> None:
    harness, _ = play(base, Cleaning, block_size=4)
    for request_id in ("first", "again"):
        harness.add(request_id, "a", prompt=range(9), max_tokens=1)
        harness.run()
    assert harness.model.cached["again"] == [8]


def a_model_of_which_vllm_zeroes_every_new_block_keeps_that(base: Path) -> None:
    class Always(KVCacheConfig):
        needs_kv_cache_zeroing = True

    def make(arguments: dict[str, Any], clock: Any) -> tuple[Any, None]:
        arguments["kv_cache_config"].__class__ = Always
        return Cleaning(**arguments), None

    harness = Harness(make, base, Settings())
    memory = harness.model.memory = WatchedMemory(4, windowed=False)
    ask(harness, "one", None, 6, 1)
    assert memory.zeroed == [1, 2]


def workers_are_made_able_to_zero_for_our_scheduler_and_adapters_alone(base: Path) -> None:
    from vllm.v1.engine import core

    asking = core.get_kv_cache_configs
    for scheduler, lora in ((Cleaning, object()), (Cleaning, None), (AsyncScheduler, object())):
        made = KVCacheConfig(1, [], [])
        core.get_kv_cache_configs = lambda *_, made=made: [made]
        compat_kv.zero_blocks_on_request(CleanBlocks)
        chosen = SimpleNamespace(get_scheduler_cls=lambda cls=scheduler: cls)
        config = SimpleNamespace(scheduler_config=chosen, lora_config=lora)
        core.get_kv_cache_configs(config, [], [])
        assert made.needs_kv_cache_zeroing is (scheduler is Cleaning and lora is not None)
    core.get_kv_cache_configs = asking


def a_runner(groups: dict[str, list[str]], caches: dict[str, torch.Tensor]) -> Any:
    """As much of vLLM's runner as zeroing looks at. Six blocks; group → its layers, layer → its cache."""
    config = KVCacheConfig(6, [], [KVCacheGroupSpec(each, None) for each in groups.values()])
    config.zeroes_on_request = True
    layers = {name: SimpleNamespace(kv_cache=cache) for name, cache in caches.items()}
    return SimpleNamespace(
        kv_cache_config=config,
        compilation_config=SimpleNamespace(static_forward_context=layers),
    )


def a_cache(dtype: torch.dtype) -> torch.Tensor:
    """Of six blocks, two heads, 32 tokens; ones, of each head first keys, then values."""
    return torch.ones(6, 2, 32, 2 * 64).to(dtype)


def zero_parts(cache: torch.Tensor) -> tuple[list[int], list[int]]:
    """The blocks whose keys are all zero, and those whose values are."""
    halves = cache.float().view(6, 2, 2, -1)
    keys, values = ((halves[:, :, i] == 0).flatten(1).all(1) for i in (0, 1))
    return keys.nonzero().flatten().tolist(), values.nonzero().flatten().tolist()


def a_block_is_zeroed_in_every_layer_whatever_its_attention(base: Path) -> None:
    for dtype in (torch.bfloat16, torch.float32, torch.float8_e4m3fn):
        caches = {"full": a_cache(dtype), "window": a_cache(dtype)}
        runner = a_runner({"group": ["full", "window", "of another rank"]}, caches)
        for blocks in ([2, 5], [3]):
            CPUModelRunner._zero_block_ids(runner, blocks)
        for cache in caches.values():
            assert zero_parts(cache) == ([], [2, 3, 5])
            assert cache.float().sum() == cache.numel() - 3 * cache[0].numel() // 2


def keys_are_zeroed_only_where_groups_of_layers_share_memory(base: Path) -> None:
    shared, second = a_cache(torch.bfloat16), a_cache(torch.bfloat16)
    groups = {"full": ["0", "1"], "window": ["2"]}
    runner = a_runner(groups, {"0": shared, "1": second, "2": shared})
    CPUModelRunner._zero_block_ids(runner, [4])
    assert zero_parts(shared) == zero_parts(second) == ([4], [4])


CHECKS = (
    vllms_own_schedulers_let_the_base_read_what_an_adapter_left,
    nobody_reads_what_another_adapter_left_whatever_comes_and_goes,
    requests_of_the_base_have_nothing_zeroed_even_when_they_are_preempted,
    a_block_is_zeroed_once_for_a_base_that_goes_on_to_use_it,
    of_the_blocks_that_a_step_fills_up_none_is_zeroed,
    a_block_that_was_filled_up_is_zeroed_before_it_is_filled_in_parts,
    a_prefix_found_in_the_cache_is_not_zeroed,
    a_model_of_which_vllm_zeroes_every_new_block_keeps_that,
    workers_are_made_able_to_zero_for_our_scheduler_and_adapters_alone,
    a_block_is_zeroed_in_every_layer_whatever_its_attention,
    keys_are_zeroed_only_where_groups_of_layers_share_memory,
)


def main() -> None:
    # As the plug-in does in each of vLLM's processes.
    compat_kv.zero_blocks_on_request(CleanBlocks)
    compat_cpu.zero_blocks_of_every_layer_on_cpu()
    with TemporaryDirectory() as folder:
        base = write_base(Path(folder, "base"), MODEL)
        for check in CHECKS:
            check(base)
            print(check.__name__, flush=True)


if __name__ == "__main__":
    main()
