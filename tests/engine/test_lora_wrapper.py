"""vLLM's operator interface on our kernels, called as vLLM's layers call it; no engine is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = Path(__file__).with_name("wrapper_checks.py")
NAMES = (
    "linear_layers_give_each_row_its_own_adapter",
    "embeddings_of_rows_without_an_adapter_are_untouched",
    "sampled_logits_use_the_rows_that_are_sampled",
    "prompt_logits_use_the_rows_of_the_view_that_is_passed",
    "full_heads_replace_only_the_rows_of_their_adapters",
    "the_plugin_names_this_wrapper_to_the_platform",
    "a_linear_layer_gives_one_row_the_bits_that_it_has_in_a_batch",
)


@pytest.fixture(scope="module")
def passed() -> set[str]:
    """One process for all: importing vllm takes ten seconds, and its warnings are not ours."""
    done = subprocess.run(
        [sys.executable, str(CHECKS)], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return set(done.stdout.split())


@pytest.mark.parametrize("name", NAMES)
def test_the_wrapper(passed: set[str], name: str) -> None:
    assert name in passed
