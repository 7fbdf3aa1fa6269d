"""The choice of LoRA kernels on GPUs: what rules ours out before anything is measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stackserve.engine.lora_choice import OBSTACLES, Facts, objection, ranks_up_to
from stackserve_kernels.lora.selfcheck import Shape

GOOD = Facts((Shape(64, (64,)),), 4, 16, torch.bfloat16, torch.bfloat16)


def test_nothing_speaks_against_a_dense_model_with_adapters_of_its_type() -> None:
    assert objection(GOOD) == ""


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_is_in_the_way_is_the_reason(name: str) -> None:
    assert objection(replace(GOOD, in_the_way=frozenset({name}))) == OBSTACLES[name]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (replace(GOOD, lora_dtype=torch.float16), "adapters are torch.float16 and the model is"),
        (
            replace(GOOD, dtype=torch.float32, lora_dtype=torch.float32),
            "adapters are torch.float32",
        ),
        (replace(GOOD, max_rank=1024), "max_lora_rank 1024 is above 512"),
        (replace(GOOD, shapes=()), "does not tell the sizes"),
    ],
)
def test_types_ranks_and_sizes_that_do_not_fit_are_the_reason(facts: Facts, reason: str) -> None:
    assert reason in objection(facts)


def test_the_largest_rank_comes_first_and_powers_of_two_below_it_follow() -> None:
    assert ranks_up_to(320) == (320, 256, 128, 64, 32, 16, 8)
    assert ranks_up_to(16) == (16, 8)
    assert ranks_up_to(1) == (1,)
