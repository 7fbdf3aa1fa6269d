"""A variant's engine, seen from here: plays traffic, and its answers are checked against its own alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.adapters.measure import Loads, Outcome, Session
from benchmarks.adapters.shelf import Shelf
from benchmarks.adapters.traffic import PROMPT_TOKENS, TEXTS, Ask, Traffic, in_turn
from benchmarks.adapters.variants import StreamSettings
from benchmarks.engines import Engine, running_engine
from benchmarks.lora_tax.cells import Ranks
from benchmarks.prompts import prompts

CHILD = "benchmarks.adapters.child"
CHECKED_ASKS = 4
CHECKED_TOKENS = 16
WARM_UP_TOKENS = 4
PATIENCE_SECONDS = 900.0
"""A session without an end of its own is given up then."""


@dataclass(frozen=True)
class Counts:
    """Of the sampled answers: how many were other than alone; how many were the base's own."""

    checked: int = 0
    wrong: int = 0
    without_effect: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.checked + other.checked,
            self.wrong + other.wrong,
            self.without_effect + other.without_effect,
        )


Solo = dict[tuple[int | None, int, int], tuple[int, ...]]
"""What an engine answered alone, by adapter, text and length of the prompt."""


@dataclass
class Player:
    """One running engine and the adapters that it may use."""

    engine: Engine
    shelf: Shelf
    base: Path
    ranks: Ranks
    _solo: Solo = field(default_factory=dict)

    def warm_up(self, seats: int, slots: int) -> None:
        """Every seat and slot used once, and one request alone."""
        self.shelf.fill(self.ranks, range(slots))
        self.engine.wait_until_ready()
        alone = Ask(0.0, 0, 0, PROMPT_TOKENS[0], WARM_UP_TOKENS)
        rows = [
            Ask(0.0, number % slots, number, length, WARM_UP_TOKENS)
            for length in PROMPT_TOKENS
            for number in range(seats)
        ]
        self.play(tuple(rows))
        self.play((alone,))

    def play(self, traffic: Traffic, until: float | None = None) -> Session:
        """Every adapter must be on the shelf. Raises EngineFailed when the child process is gone."""
        reply = self.engine.ask(
            {"asks": [self._told(ask) for ask in traffic], "until": until or PATIENCE_SECONDS}
        )
        return session_of(traffic, reply)

    def wake(self) -> None:
        """Wait for others to sleep, then end this one's sleep with a request that is not timed."""
        self.engine.settle()
        self.play((Ask(0.0, None, 0, PROMPT_TOKENS[0], 1),))

    def check(self, session: Session) -> Counts:
        """Ask a sample of what was answered again, one after another, and the base beside."""
        asked = sample(session, CHECKED_ASKS)
        missing = [
            ask
            for number in asked
            for ask in _with_base(session.traffic[number])
            if _key(ask) not in self._solo
        ]
        if missing:
            shorter = [replace(ask, tokens=CHECKED_TOKENS) for ask in missing]
            for ask, outcome in zip(missing, self.play(in_turn(shorter)).outcomes, strict=True):
                self._solo[_key(ask)] = outcome.tokens
        return sum((self._compare(session, number) for number in asked), Counts())

    def _compare(self, session: Session, number: int) -> Counts:
        ask, answer = session.traffic[number], session.outcomes[number].tokens
        alone, base = (self._solo[_key(each)] for each in _with_base(ask))
        length = min(len(answer), CHECKED_TOKENS)
        return Counts(
            checked=1,
            wrong=int(answer[:length] != alone[:length]),
            without_effect=int(alone == base),
        )

    def _told(self, ask: Ask) -> dict[str, Any]:
        number = ask.adapter
        return {
            "at": ask.at,
            "after": ask.after,
            "prompt": _texts(self.base)[ask.text][: ask.prompt_tokens],
            "adapter": number,
            "folder": None if number is None else str(self.shelf.path(self.ranks, number)),
            "tokens": ask.tokens,
        }


@contextmanager
def running_player(
    settings: StreamSettings, shelf: Shelf, ranks: Ranks, log: Path
) -> Iterator[Player]:
    """Starts the engine without waiting for it."""
    with running_engine(settings, log, CHILD) as engine:
        yield Player(engine, shelf, Path(settings.model), ranks)


def session_of(traffic: Traffic, reply: dict[str, Any]) -> Session:
    """What the child told of a session."""
    outcomes = tuple(
        Outcome(each["sent"], tuple(each["times"]), tuple(each["tokens"]), each["error"])
        for each in reply["outcomes"]
    )
    loads = Loads(reply["loads"].get("reads", 0), reply["loads"].get("placed", 0))
    return Session(traffic, outcomes, loads, reply["ended"], reply["dead"])


def sample(session: Session, most: int) -> list[int]:
    """Places of asks with enough of an answer, spread over the session, each of another adapter."""
    first: dict[int | None, int] = {}
    for number, (ask, outcome) in enumerate(zip(session.traffic, session.outcomes, strict=True)):
        if ask.tokens > 1 and len(outcome.tokens) >= min(ask.tokens, CHECKED_TOKENS):
            first.setdefault(ask.adapter, number)
    places = sorted(first.values())
    if len(places) <= most:
        return places
    return [places[number * len(places) // most] for number in range(most)]


def _with_base(ask: Ask) -> Sequence[Ask]:
    return ask, replace(ask, adapter=None)


def _key(ask: Ask) -> tuple[int | None, int, int]:
    return ask.adapter, ask.text, ask.prompt_tokens


@lru_cache(maxsize=1)
def _texts(base: Path) -> tuple[tuple[int, ...], ...]:
    return prompts(base, TEXTS, PROMPT_TOKENS[1])
