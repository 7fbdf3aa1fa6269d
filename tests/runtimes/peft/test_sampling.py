"""The next token: by the highest score, or drawn from those that a request leaves in."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stackserve.runtimes.peft.sampling import NotANumber, Sampling, choose

SCORES = [1.0, 3.0, 2.0, 0.0]
NOTHING = torch.tensor([], dtype=torch.long)


def drawn(scores: list[float] = SCORES, seen: Any = NOTHING, **wishes: Any) -> set[int]:
    """All that comes in many draws."""
    sampling, generator = Sampling(max_tokens=1, **wishes), torch.Generator().manual_seed(1)
    return {choose(torch.tensor(scores), sampling, seen, generator) for _ in range(400)}


def test_without_temperature_the_highest_score_wins() -> None:
    assert drawn(temperature=0) == {1}


@pytest.mark.parametrize(
    ("wishes", "left"),
    [
        ({}, {0, 1, 2, 3}),
        ({"top_k": 2}, {1, 2}),
        ({"top_p": 0.1}, {1}),
        ({"top_p": 0.7}, {1, 2}),
        ({"min_p": 0.3}, {1, 2}),
        ({"temperature": 0.01}, {1}),
        ({"top_k": 3, "top_p": 0.5}, {1}),
    ],
)
def test_a_wish_leaves_the_likely_ones(wishes: dict[str, Any], left: set[int]) -> None:
    assert drawn(**wishes) == left


def test_draws_follow_the_probabilities() -> None:
    generator = torch.Generator().manual_seed(1)
    sampling = Sampling(max_tokens=1, temperature=0.5)
    draws = [choose(torch.tensor(SCORES), sampling, NOTHING, generator) for _ in range(4000)]
    expected = torch.softmax(torch.tensor(SCORES) / 0.5, 0)
    found = torch.bincount(torch.tensor(draws), minlength=4) / 4000
    assert (found - expected).abs().max() < 0.03


def test_what_was_said_is_penalised_once() -> None:
    assert drawn(temperature=0, repetition_penalty=2, seen=torch.tensor([1, 1])) == {2}
    assert drawn([-1.0, -1.5], temperature=0, repetition_penalty=2, seen=torch.tensor([0])) == {1}


def test_a_row_of_nan_is_told() -> None:
    with pytest.raises(NotANumber):
        choose(torch.tensor([1.0, float("nan")]), Sampling(1), NOTHING, None)
