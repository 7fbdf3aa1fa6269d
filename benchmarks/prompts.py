"""Prompts of an exact number of tokens: English, so that greedy answers are not mere repetition."""

from __future__ import annotations

import random
from pathlib import Path

SENTENCES = (
    "The old bridge over the river was closed for repairs until the first week of spring.",
    "She counted the letters twice, and each time one of them was missing.",
    "A good kitchen knife keeps its edge for years if nobody cuts bread with it.",
    "In the harbour three grey ships waited for a wind that the forecast had promised.",
    "My neighbour teaches mathematics, but on Sundays she repairs clocks.",
    "The committee asked for a shorter report with fewer numbers and better pictures.",
    "Rain fell on the tin roof all night and nobody in the house could sleep.",
    "When the train stopped in the middle of the field, the passengers began to talk.",
    "Every autumn the school plants one apple tree for each child that has left it.",
    "He wrote down the number, folded the paper, and hid it under the lamp.",
    "The museum owns four maps of the city, and no two of them agree.",
    "If the soup is too salty, add a potato and wait for ten minutes.",
    "They built the library next to the station so that travellers could read.",
    "A small dog followed the postman from door to door without a sound.",
    "The engineer explained that the tower moves a little whenever the sun shines.",
    "Nobody remembers who painted the ceiling, although everyone admires it.",
)


def prompts(base: Path, count: int, tokens: int, seed: int = 0) -> tuple[tuple[int, ...], ...]:
    """`count` different prompts of exactly `tokens` tokens, in the base's own vocabulary."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    made = []
    for number in range(count):
        order = random.Random(f"{seed}/{number}")
        ids: list[int] = []
        while len(ids) < tokens:
            text = " ".join(order.sample(SENTENCES, len(SENTENCES)))
            ids += tokenizer.encode(" " + text, add_special_tokens=False).ids
        made.append(tuple(ids[:tokens]))
    return tuple(made)
