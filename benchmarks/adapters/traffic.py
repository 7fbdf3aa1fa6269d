"""Who asks which adapter what, and when: made from a seed alone, so that every variant gets the same."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

PROMPT_TOKENS = (8, 32)
ANSWER_TOKENS = (8, 24)
TEXTS = 64
"""So many different prompts there are; `Ask.text` chooses one."""


@dataclass(frozen=True)
class Ask:
    """One request. It is sent `at` seconds after the start, or when ask number `after` has been
    answered, if that is later. `adapter` counts from 0, the most asked for; None is the base.
    """

    at: float
    adapter: int | None
    text: int
    prompt_tokens: int
    tokens: int
    after: int | None = None
    role: str = ""


Traffic = tuple[Ask, ...]


def power_law(adapters: int, alpha: float = 1.0) -> tuple[float, ...]:
    """Shares that fall with the rank as 1 / rank^alpha; they add up to 1."""
    weights = [1 / rank**alpha for rank in range(1, adapters + 1)]
    total = sum(weights)
    return tuple(weight / total for weight in weights)


def arrivals(
    shares: Sequence[float], asks: int, per_second: float, seed: str, role: str = ""
) -> Traffic:
    """Poisson arrivals; each ask draws its adapter by the shares, its lengths evenly from the bounds."""
    draw = random.Random(seed)
    upto = tuple(accumulate(shares))
    at, made = 0.0, []
    for _ in range(asks):
        at += draw.expovariate(per_second)
        (adapter,) = draw.choices(range(len(shares)), cum_weights=upto)
        made.append(
            Ask(
                at=at,
                adapter=adapter,
                text=draw.randrange(TEXTS),
                prompt_tokens=draw.randint(*PROMPT_TOKENS),
                tokens=draw.randint(*ANSWER_TOKENS),
                role=role,
            )
        )
    return tuple(made)


def even_shares(adapters: int) -> tuple[float, ...]:
    return (1 / adapters,) * adapters


@dataclass(frozen=True)
class Lanes:
    """Clients that send the next request as soon as the last is answered, for ever: `each` of them
    for every adapter. Their first answers are of different lengths, so that those of an adapter do not
    end at one moment.
    """

    adapters: tuple[int, ...]
    each: int
    prompt_tokens: int
    tokens: int
    role: str

    def asks(self, length: int) -> Traffic:
        """`length` requests for each client, one after another."""
        made: list[Ask] = []
        for number in range(len(self.adapters) * self.each):
            adapter = self.adapters[number % len(self.adapters)]
            place = number // len(self.adapters)
            for turn in range(length):
                made.append(
                    Ask(
                        at=0.0,
                        adapter=adapter,
                        text=(number * length + turn) % TEXTS,
                        prompt_tokens=self.prompt_tokens,
                        tokens=self.tokens if turn else self.tokens * (place + 1) // self.each,
                        after=len(made) - 1 if turn else None,
                        role=self.role,
                    )
                )
        return tuple(made)


def at_intervals(
    adapters: Sequence[int | None], first: float, gap: float, lengths: tuple[int, int], role: str
) -> Traffic:
    """One ask for each adapter, `gap` seconds apart; `lengths` are those of prompt and answer."""
    prompt_tokens, tokens = lengths
    return tuple(
        Ask(first + number * gap, adapter, number % TEXTS, prompt_tokens, tokens, role=role)
        for number, adapter in enumerate(adapters)
    )


def in_turn(asks: Sequence[Ask]) -> Traffic:
    """The same asks, each sent when the one before is answered: so each is alone."""
    return tuple(
        Ask(0.0, ask.adapter, ask.text, ask.prompt_tokens, ask.tokens, number - 1 if number else None)
        for number, ask in enumerate(asks)
    )  # fmt: skip


def together(*parts: Traffic) -> Traffic:
    """All of them in one; `after` still names the ask that it named."""

    def shifted() -> Iterator[Ask]:
        before = 0
        for part in parts:
            for ask in part:
                after = None if ask.after is None else ask.after + before
                yield Ask(
                    ask.at, ask.adapter, ask.text, ask.prompt_tokens, ask.tokens, after, ask.role
                )
            before += len(part)

    return tuple(shifted())


def adapters_of(traffic: Traffic) -> frozenset[int]:
    """The adapters that must be on disk before it is played."""
    return frozenset(ask.adapter for ask in traffic if ask.adapter is not None)
