"""An answer's text: whole characters, nothing of a stop string, and all parts together the whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackserve.runtimes.peft.text import Text


class Bytes:
    """A tokenizer with a token a byte."""

    def decode(self, tokens: list[int], **_: Any) -> str:
        return bytes(tokens).decode("utf-8", "replace")


def parts(text: str, *stop: str, include: bool = False) -> list[str]:
    """What is told at each byte, and at the end."""
    told = Text(Bytes(), stop, include)
    found = []
    for byte in text.encode():
        found.append(told.add(byte))
        if told.stopped:
            return found
    return [*found, told.end()]


def test_a_character_of_several_tokens_comes_whole() -> None:
    assert parts("aé€") == ["a", "", "é", "", "", "€", ""]


@given(st.text())
def test_all_parts_together_are_the_text(text: str) -> None:
    assert "".join(parts(text)) == text


@pytest.mark.parametrize(
    ("text", "stop", "told"),
    [
        ("say END now", ("END",), "say "),
        ("a lone EN", ("END",), "a lone EN"),
        ("ENEND", ("END",), "EN"),
        ("one\n\ntwo", ("two", "\n\n"), "one"),
        ("aé!", ("é",), "a"),
    ],
)
def test_the_text_ends_before_the_first_stop_string(
    text: str, stop: tuple[str, ...], told: str
) -> None:
    assert "".join(parts(text, *stop)) == told


def test_what_may_begin_a_stop_string_is_held_back() -> None:
    assert parts("xENy", "END") == ["x", "", "", "ENy", ""]


def test_a_stop_string_can_be_part_of_the_text() -> None:
    assert "".join(parts("say END now", "END", include=True)) == "say END"
