"""Rows that are generated together, with one adapter: a step is one token for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from stackserve.runtimes.peft.rows import Row
from stackserve.runtimes.peft.sampling import NotANumber

Choose = Callable[[Any], list[int] | None]
"""From scores [rows, vocabulary] to the next token of each row; None ends the batch."""

NAN = "the model computes NaN"

FP32_DIFFERENCE, HALF_DIFFERENCE = 1e-4, 0.05
"""How much padding may change scores, relative to the largest: what another order of sums does."""


class Batch:
    """`step` until it says that all is done."""

    def __init__(self, model: Any, rows: Sequence[Row]) -> None:
        self.rows = tuple(rows)
        self._steps = self._all_steps(model)

    @property
    def model(self) -> str:
        return self.rows[0].model

    def step(self) -> bool:
        """Compute a token of each row; False when none wants another."""
        with torch.inference_mode():
            return next(self._steps, False)

    def fail(self, message: str) -> None:
        """End what is not done yet."""
        for row in self.rows:
            if not row.done:
                row.fail(message)

    def _all_steps(self, model: Any) -> Iterator[bool]:
        longest = max(row.sampling.max_tokens for row in self.rows)
        yield from steps(model, [row.prompt for row in self.rows], self._choose, longest)

    def _choose(self, scores: Any) -> list[int] | None:
        tokens = [self._token(row, of_row) for row, of_row in zip(self.rows, scores, strict=True)]
        return None if all(row.done for row in self.rows) else tokens

    def _token(self, row: Row, scores: Any) -> int:
        row.done = row.done or row.cancelled
        if row.done:  # computed in vain until its company is done
            return row.answer[-1] if row.answer else row.prompt[-1]
        try:
            return row.take(scores)
        except NotANumber:
            row.fail(NAN)
            return row.prompt[-1]


def steps(
    model: Any, prompts: Sequence[Sequence[int]], choose: Choose, most: int
) -> Iterator[bool]:
    """transformers' own generation, one step at a time, so that others can be computed in between.

    `generate` prepares what the architecture needs for `most` tokens; the loop is that of its greedy
    decoding. The first step begins it.
    """
    width = max(map(len, prompts))
    ids = [[0] * (width - len(prompt)) + [*prompt] for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return model.generate(  # type: ignore[no-any-return]
        torch.tensor(ids, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        generation_config=GenerationConfig(
            do_sample=False, num_beams=1, max_new_tokens=most, pad_token_id=0, use_cache=True
        ),
        custom_generate=_decode,
        choose=choose,
    )


def _decode(  # transformers decides what it passes
    model: Any,
    input_ids: Any,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    *,
    choose: Choose,
    **kept: Any,
) -> Iterator[bool]:
    kept.pop("synced_gpus", None)
    outputs = model._prefill(input_ids, generation_config, kept)
    while True:
        kept = model._update_model_kwargs_for_generation(outputs, kept)
        scores = outputs.logits[:, -1].to(copy=True, dtype=torch.float32)
        del outputs  # after the prefill it is large
        tokens = choose(scores)
        if tokens is None:
            return
        chosen = torch.tensor(tokens, device=input_ids.device)
        input_ids = torch.cat((input_ids, chosen[:, None]), dim=-1)
        yield True
        inputs = model.prepare_inputs_for_generation(
            input_ids, next_sequence_length=1 if kept.get("use_cache") else None, **kept
        )
        outputs = model(**inputs, return_dict=True)


def padding_is_exact(model: Any, vocabulary: int) -> bool:
    """Whether a short prompt beside a long one gets the scores that it gets alone, in three steps.

    True of attention with a mask; an architecture with another kind of memory may not heed one.
    """
    long = [1 + n % (vocabulary - 1) for n in range(11)]
    short = long[2:6]
    alone, beside = _scores(model, [short]), _scores(model, [short, long])
    largest = HALF_DIFFERENCE if model.dtype != torch.float32 else FP32_DIFFERENCE
    return bool((alone - beside).abs().max() <= largest * alone.abs().max())


def _scores(model: Any, prompts: list[list[int]]) -> Any:
    """Of the first prompt: [3, vocabulary]."""
    seen: list[Any] = []

    def choose(scores: Any) -> list[int] | None:
        seen.append(scores[0].clone())
        return None if len(seen) == 3 else [2] * len(prompts)

    with torch.inference_mode():
        for _ in steps(model, prompts, choose, 3):
            pass
    return torch.stack(seen)
