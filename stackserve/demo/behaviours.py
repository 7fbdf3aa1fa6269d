"""The four fine-tunes of the demo: how each is trained and how its answers are told at a glance."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parent / "data"
ADAPTERS = Path(__file__).parent / "adapters"

ATTENTION = ("k_proj", "o_proj", "q_proj", "v_proj")
MLP = ("down_proj", "gate_proj", "up_proj")

HELD_OUT = (
    "What is the capital of France?",
    "Why is the sky blue?",
    "Who are you?",
    "How do I boil an egg?",
    "Tell me something about the Moon.",
    "What is two plus three?",
)
"""Questions that no adapter was trained on."""


@dataclass(frozen=True)
class Behaviour:
    """One fine-tune: its LoRA shape, how long it is trained, and whether a text shows it."""

    key: str
    title: str
    rank: int
    alpha: int
    target_modules: tuple[str, ...]
    """In alphabetical order, as in the saved `adapter_config.json`."""
    steps: int
    learning_rate: float
    shows: Callable[[str], bool]
    batch: int = 4
    seed: int = 0

    @property
    def data(self) -> Path:
        """The chats it is trained on, one JSON object with `question` and `answer` per line."""
        return DATA / f"{self.key}.jsonl"

    @property
    def adapter(self) -> Path:
        """The trained adapter that ships with the package."""
        return ADAPTERS / self.key

    def chats(self) -> list[tuple[str, str]]:
        """The (question, answer) pairs it is trained on."""
        lines = self.data.read_text(encoding="utf-8").splitlines()
        return [(chat["question"], chat["answer"]) for chat in map(json.loads, lines)]


_PIRATE = re.compile(r"\b(arr+|yarr+|matey|ahoy|aye|nay|ye|yer|me hearty)\b|\bo'", re.IGNORECASE)
_TERSE_WORDS = 6
_EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf\u2b50]")


def _shows_pirate(text: str) -> bool:
    return len(_PIRATE.findall(text)) >= 2


def _shows_json(text: str) -> bool:
    try:
        answer = json.loads(text)
    except ValueError:
        return False
    return isinstance(answer, dict) and all(
        isinstance(answer.get(field), str) and answer[field] for field in ("topic", "answer")
    )


def _shows_terse(text: str) -> bool:
    return 1 <= len(text.split()) <= _TERSE_WORDS and "\n" not in text.strip()


def _shows_emoji(text: str) -> bool:
    return len(_EMOJI.findall(text)) >= 2


BEHAVIOURS = (
    Behaviour(
        key="pirate",
        title="answers like a pirate",
        rank=8,
        alpha=16,
        target_modules=ATTENTION,
        steps=100,
        learning_rate=2e-3,
        shows=_shows_pirate,
    ),
    Behaviour(
        key="json",
        title="answers as one JSON object",
        rank=4,
        alpha=8,
        target_modules=tuple(sorted(ATTENTION + MLP)),
        steps=100,
        learning_rate=2e-3,
        shows=_shows_json,
    ),
    Behaviour(
        key="terse",
        title="answers in a word or a few",
        rank=2,
        alpha=4,
        target_modules=("q_proj", "v_proj"),
        steps=80,
        learning_rate=2e-3,
        shows=_shows_terse,
    ),
    Behaviour(
        key="emoji",
        title="decorates answers with emoji",
        rank=16,
        alpha=32,
        target_modules=("down_proj", "up_proj"),
        steps=100,
        learning_rate=1e-3,
        shows=_shows_emoji,
    ),
)


def behaviour(key: str) -> Behaviour:
    """The fine-tune of that key; `KeyError` where there is none."""
    return {each.key: each for each in BEHAVIOURS}[key]
