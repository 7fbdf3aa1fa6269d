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
    "a_bound_linear_layer_gives_each_row_its_own_adapter",
    "a_base_layer_on_our_product_takes_its_adapters_in_one_pass",
    "a_compiled_graph_gives_what_the_layer_gives",
    "a_slot_whose_adapter_leaves_the_layer_alone_is_emptied",
    "bound_logits_use_the_rows_that_are_sampled",
    "bound_logits_of_another_type_than_the_adapters_are_exact_too",
    "a_bound_embedding_computes_only_when_an_adapter_has_one",
    "the_index_tensors_are_those_of_vllm",
    "an_adapter_without_a_slot_is_an_error",
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
