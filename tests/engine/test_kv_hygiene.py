"""A poisoned adapter hurts nobody: what it wrote into the KV cache is gone before others read it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackserve.demo.behaviours import BEHAVIOURS
from stackserve.engine.kv_hygiene import TaintedBlocks
from tests.engine.server import ALL_CORES

ROOT = Path(__file__).parents[2]
OURS = "stackserve.engine.scheduler.AdapterScheduler"
VLLMS = "vllm.v1.core.sched.scheduler.Scheduler"
NAMES = (
    "vllms_own_schedulers_let_the_base_read_what_an_adapter_left",
    "nobody_reads_what_another_adapter_left_whatever_comes_and_goes",
    "requests_of_the_base_have_nothing_zeroed_even_when_they_are_preempted",
    "a_block_is_zeroed_once_for_a_base_that_goes_on_to_use_it",
    "of_the_blocks_that_a_step_fills_up_none_is_zeroed",
    "a_block_that_was_filled_up_is_zeroed_before_it_is_filled_in_parts",
    "a_prefix_found_in_the_cache_is_not_zeroed",
    "a_model_of_which_vllm_zeroes_every_new_block_keeps_that",
    "workers_are_made_able_to_zero_for_our_scheduler_and_adapters_alone",
    "a_block_is_zeroed_in_every_layer_whatever_its_attention",
    "keys_are_zeroed_only_where_groups_of_layers_share_memory",
)
IDS = st.integers(1, 9)


@given(st.lists(st.tuples(st.booleans(), st.frozensets(IDS))), st.frozensets(IDS))
def test_a_block_is_tainted_from_an_adapters_request_until_it_is_zeroed(
    moves: list[tuple[bool, frozenset[int]]], asked: frozenset[int]
) -> None:
    tainted, last = TaintedBlocks(), dict.fromkeys(range(1, 10), False)
    for taint, blocks in moves:
        (tainted.taint if taint else tainted.cleaned)(blocks)
        last |= dict.fromkeys(blocks, taint)
        assert len(tainted) == sum(last.values())
    assert tainted.among(asked) == {each for each in asked if last[each]}


def run(*command: str) -> str:
    """A Python program's output: importing vllm takes ten seconds, and its warnings are not ours."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | ALL_CORES | {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def passed() -> set[str]:
    return set(run("-m", "tests.engine.kv_hygiene_checks").split())


@pytest.mark.parametrize("name", NAMES)
def test_the_scheduler_and_the_worker(passed: set[str], name: str) -> None:
    assert name in passed


def poisoned_batch(base: Path, folder: Path, scheduler: str, dtype: str) -> dict[str, Any]:
    """What `poisoned_batch.py` found: with two good adapters, and no validation."""
    out = folder / "found.json"
    good = [str(each.adapter) for each in BEHAVIOURS[:2]]
    program = str(Path(__file__).with_name("poisoned_batch.py"))
    run(program, str(out), str(base), scheduler, dtype, str(folder), *good)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_answers_are_the_same_before_while_and_after_a_poisoned_adapter_is_used(
    demo_base: Path, tmp_path: Path, dtype: str
) -> None:
    found = poisoned_batch(demo_base, tmp_path, OURS, dtype)
    before = found.pop("before")
    assert {answer[0] for answer in before} == {"base", *(each.key for each in BEHAVIOURS[:2])}
    for poison, answers in found.items():
        assert answers["during"] == before, poison
        assert answers["after"] == before, poison
        assert set(answers["reasons"]) <= {"length", "stop", "error"}, poison


def test_with_vllms_own_scheduler_a_poisoned_adapter_changes_the_answers_of_others(
    demo_base: Path, tmp_path: Path
) -> None:
    """The check above can fail: this is what it looks like when it does."""
    found = poisoned_batch(demo_base, tmp_path, VLLMS, "bfloat16")
    before = found.pop("before")
    assert [poison for poison, answers in found.items() if answers["after"] != before]
