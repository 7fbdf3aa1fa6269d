"""LoRA on GPUs inside vLLM: our Triton kernels in its layers, and the choice between them and its own.

Without a GPU the kernels run in Triton's interpreter, and no engine is started. On a machine that has
one, `.venv/bin/python -m pytest -m gpu -rs tests/kernels tests/engine/test_cuda_wrapper.py` runs all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from stackserve.demo.behaviours import BEHAVIOURS

HERE = Path(__file__).parent
NAMES = (
    "a_linear_layer_gives_each_row_its_own_adapter",
    "rows_that_pad_a_graph_are_untouched",
    "a_compiled_graph_gives_what_the_layer_gives_and_does_not_name_it",
    "later_steps_use_the_same_buffers_for_other_mixes",
    "a_slot_of_zeros_is_empty_and_its_layer_still_launches",
    "loading_takes_no_memory_beyond_what_binding_took",
    "logits_use_the_rows_that_are_sampled",
    "logits_of_a_prompt_use_the_rows_of_the_view_that_is_passed",
    "modules_of_another_type_or_kind_stay_with_vllm",
    "a_yes_gives_our_wrapper_and_says_why_once",
    "a_no_gives_just_what_vllm_has_and_says_why",
    "an_engine_that_cannot_be_read_gives_what_vllm_has",
    "without_our_kernels_vllm_is_traced_as_ever",
    "the_facts_are_those_of_the_engine",
    "vllms_side_of_a_trial_is_right_and_forgotten",
    "the_plugin_names_our_wrapper_to_cuda_and_to_no_other",
)
ON_GPU = (*NAMES, "one_cuda_graph_serves_every_mix_of_adapters")


@dataclass(frozen=True)
class Outcome:
    held: frozenset[str]
    said: str


def run(program: str, *arguments: str, **environment: str) -> Outcome:
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(HERE / program), *arguments],
        env=clean | {"HF_HUB_OFFLINE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    return Outcome(frozenset(done.stdout.splitlines()), done.stdout[-4000:] + done.stderr[-8000:])


def needs_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture(scope="module")
def interpreted() -> Outcome:
    return run("cuda_wrapper_checks.py", "cpu", TRITON_INTERPRET="1", OMP_NUM_THREADS="1")


@pytest.fixture(scope="module")
def on_gpu() -> Outcome:
    needs_gpu()
    return run("cuda_wrapper_checks.py", "cuda")


@pytest.mark.parametrize("name", NAMES)
def test_in_the_interpreter(interpreted: Outcome, name: str) -> None:
    assert name in interpreted.held, interpreted.said


@pytest.mark.gpu
@pytest.mark.parametrize("name", ON_GPU)
def test_on_a_gpu(on_gpu: Outcome, name: str) -> None:
    assert name in on_gpu.held, on_gpu.said


@pytest.mark.gpu
@pytest.mark.parametrize("choice", ["ours", "checked"])
def test_plain_vllm_answers_every_row_as_if_alone(tmp_path: Path, choice: str) -> None:
    """With vLLM's own batch invariance for the base, so that adapters alone can make a difference."""
    needs_gpu()
    from stackserve.demo.base import ensure_demo_base

    out, adapters = tmp_path / "rows.json", [str(each.adapter) for each in BEHAVIOURS]
    done = run(
        "cuda_mixed_batch.py",
        choice,
        str(out),
        str(ensure_demo_base()),
        *adapters,
        VLLM_BATCH_INVARIANT="1",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
    )
    assert out.exists(), done.said
    assert "stackserve: LoRA runs on" in done.said
    if choice == "ours":
        assert "stackserve: LoRA runs on our Triton kernels, because a test asks" in done.said
    rows = json.loads(out.read_text())
    assert {row["adapter"] for row in rows} == {None, *(each.key for each in BEHAVIOURS)}
    assert [row["mixed"] for row in rows] == [row["alone"] for row in rows]
