"""How the next token is chosen from the scores of all: one row at a time, by its own wishes alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

GREEDY_BELOW = 1e-5
"""A temperature under it means the highest score, as in vLLM."""


class NotANumber(Exception):
    """The model's scores hold NaN."""


@dataclass(frozen=True)
class Sampling:
    """A request's wishes. `top_k` 0 and `top_p` 1 are all tokens; `min_p` is relative to the best."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    include_stop: bool = False
    """The text ends with the stop string that ended it, and not before it."""
    top_logprobs: int | None = None
    """So many of the likeliest tokens are told with each, by their scores before all of the above."""


def choose(scores: Any, sampling: Sampling, seen: Any, generator: Any) -> int:
    """A token by its scores [vocabulary] in fp32, which are changed in place; `seen` are the tokens of
    prompt and answer. `generator` is torch's, on the CPU. Raises NotANumber.
    """
    if bool(torch.isnan(scores).any()):
        raise NotANumber
    if sampling.repetition_penalty != 1.0:
        before = scores[seen]
        penalty = sampling.repetition_penalty
        scores[seen] = torch.where(before < 0, before * penalty, before / penalty)
    if sampling.temperature < GREEDY_BELOW:
        return int(scores.argmax())
    scores = scores.cpu() / sampling.temperature
    _keep_likely(scores, sampling)
    probabilities = torch.softmax(scores, dim=-1)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def _keep_likely(scores: Any, sampling: Sampling) -> None:
    """Give the others no chance: min_p, then top_k, then top_p of what is left, as vLLM does."""
    if sampling.min_p > 0:
        probabilities = torch.softmax(scores, dim=-1)
        scores[probabilities < sampling.min_p * probabilities.max()] = -torch.inf
    if 0 < sampling.top_k < len(scores):
        scores[scores < scores.topk(sampling.top_k).values[-1]] = -torch.inf
    if sampling.top_p < 1:
        ordered, indices = scores.sort(descending=True)
        probabilities = torch.softmax(ordered, dim=-1)
        before = probabilities.cumsum(-1) - probabilities
        scores[indices[before >= sampling.top_p]] = -torch.inf
