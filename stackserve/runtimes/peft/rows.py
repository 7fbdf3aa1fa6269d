"""One prompt that is being answered: what it asks for, what it has, and who is told of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from stackserve.runtimes.peft.sampling import Sampling, choose
from stackserve.runtimes.peft.text import Text


@dataclass(frozen=True)
class Logprob:
    """A token's logarithmic probability, and those of the likeliest in its place."""

    token: int
    value: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Piece:
    """What one token adds to an answer: its new text, and why it ends with it (stop, length), if it does."""

    text: str
    finish: str | None = None
    logprob: Logprob | None = None


@dataclass(frozen=True)
class Failure:
    """An answer that ends without its end."""

    message: str
    status: int = 500


@dataclass(eq=False)
class Row:
    """Used by the generation thread, but for `cancelled`, which anybody may set: it ends the answer."""

    model: str
    prompt: tuple[int, ...]
    sampling: Sampling
    text: Text
    ends: frozenset[int]
    tell: Callable[[Piece | Failure], None]
    generator: Any
    """torch's, of this row where it has a seed."""
    answer: list[int] = field(default_factory=list)
    cancelled: bool = False
    done: bool = False
    outcome: str = "abort"
    """How it ended: stop, length, error; abort when nobody wanted its end."""
    arrived: float = field(default_factory=time.monotonic)
    last: float | None = None
    """When its latest token came."""

    def take(self, scores: Any) -> int:
        """Choose its next token by the scores [vocabulary], and tell it. Raises NotANumber."""
        logprob_scores = scores.clone() if self.sampling.top_logprobs is not None else None
        seen = torch.tensor((*self.prompt, *self.answer), device=scores.device)
        token = choose(scores, self.sampling, seen, self.generator)
        self.answer.append(token)
        told = None if logprob_scores is None else self._logprob(token, logprob_scores)
        self._tell(token, told)
        return token

    def fail(self, message: str, status: int = 500) -> None:
        """End without an answer."""
        self.done, self.outcome = True, "error"
        self.tell(Failure(message, status))

    def _tell(self, token: int, logprob: Logprob | None) -> None:
        of_base = token in self.ends and not self.sampling.ignore_eos
        ended = of_base or token in self.sampling.stop_token_ids
        text, finish = "", None
        if not ended or self.sampling.include_stop:
            text = self.text.add(token)
        if ended or self.text.stopped:
            finish = "stop"
        elif len(self.answer) >= self.sampling.max_tokens:
            finish = "length"
        if finish is not None:
            text += self.text.end()
            finish = "stop" if self.text.stopped else finish
            self.done, self.outcome = True, finish
        self.tell(Piece(text, finish, logprob))

    def _logprob(self, token: int, scores: Any) -> Logprob:
        values = torch.log_softmax(scores, dim=-1)
        top = values.topk(min(self.sampling.top_logprobs or 0, len(values)))
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return Logprob(token, float(values[token]), tuple(pairs))
