"""`TritonLayer` in Triton's interpreter, through the compiler, and on a GPU where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
NAMES = (
    "every_row_gets_the_delta_of_its_own_adapter",
    "a_plan_that_held_a_larger_batch_serves_a_smaller_one",
    "the_same_batch_twice_gives_the_same_bits",
    "a_row_has_the_same_bits_alone_and_in_any_company",
    "slots_are_loaded_unloaded_and_loaded_again",
    "a_layer_with_reserved_memory_takes_no_more",
    "a_slice_that_an_adapter_leaves_alone_keeps_its_bits",
    "slices_may_have_ranks_of_their_own",
    "rows_may_lie_apart_in_memory_and_end_after_the_plan",
    "layers_of_one_step_share_a_plan",
    "an_infinite_value_stays_in_its_row",
    "a_layer_is_empty_while_no_slot_has_weights",
    "what_does_not_fit_is_refused",
)
ON_GPU = (*NAMES, "one_cuda_graph_serves_every_mix_of_adapters")
ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Outcome:
    held: frozenset[str]
    errors: str


def run(program: str, argument: str, environment: dict[str, str]) -> Outcome:
    """In a process of its own: Triton reads TRITON_INTERPRET once, when it is imported."""
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(HERE / program), argument],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    return Outcome(frozenset(done.stdout.splitlines()), done.stderr[-4000:])


@pytest.fixture(scope="module")
def interpreted() -> Outcome:
    return run("triton_checks.py", "cpu", ONE_CORE | {"TRITON_INTERPRET": "1"})


@pytest.fixture(scope="module")
def on_gpu() -> Outcome:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return run("triton_checks.py", "cuda", {})


@pytest.mark.parametrize("name", NAMES)
def test_in_the_interpreter(interpreted: Outcome, name: str) -> None:
    assert name in interpreted.held, interpreted.errors


@pytest.mark.gpu
@pytest.mark.parametrize("name", ON_GPU)
def test_on_a_gpu(on_gpu: Outcome, name: str) -> None:
    assert name in on_gpu.held, on_gpu.errors


def test_the_kernels_compile_without_spills_and_read_sixteen_bytes_at_a_time(
    tmp_path: Path,
) -> None:
    made = run("triton_compile.py", str(tmp_path), {"TRITON_CACHE_DIR": str(tmp_path / "cache")})
    assert made.held == {
        f"{name} {dtype} {capability} 0 wide"
        for name in ("shrink", "expand")
        for dtype in ("bf16", "fp16", "fp32")
        for capability in (80, 90)
    }, made.errors


def test_the_package_is_imported_without_triton() -> None:
    program = "import sys, stackserve_kernels.lora; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
