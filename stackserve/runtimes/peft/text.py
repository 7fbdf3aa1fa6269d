"""An answer's text as its tokens come: whole characters only, and nothing that may begin a stop string."""

from __future__ import annotations

from typing import Any

BROKEN = "\ufffd"
"""What a tokenizer writes for the first bytes of a character whose others are still to come."""


class Text:
    """`add` gives the text that is new and certain; all parts together are the answer."""

    def __init__(self, tokenizer: Any, stop: tuple[str, ...], include_stop: bool) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._include_stop = include_stop
        self._tokens: list[int] = []
        self._from, self._read = 0, 0
        """Tokens that are decoded again, since their neighbours shape their text; and those told."""
        self._held = ""
        self.stopped = False
        """A stop string has come; the text ends with it."""

    def add(self, token: int) -> str:
        """One more token."""
        self._tokens.append(token)
        new = self._untold()
        if not new or new.endswith(BROKEN):
            return ""
        self._from, self._read = self._read, len(self._tokens)
        return self._certain(new)

    def end(self) -> str:
        """What was held back; no token follows."""
        last = self._certain(self._untold())
        if self.stopped:
            return last
        return last + self._held

    def _untold(self) -> str:
        told = self._decode(self._tokens[self._from : self._read])
        return self._decode(self._tokens[self._from :])[len(told) :]

    def _certain(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [(at, stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            at, stop = min(found)
            self.stopped, self._held = True, ""
            return text[: at + len(stop)] if self._include_stop else text[:at]
        hold = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold]

    def _decode(self, tokens: list[int]) -> str:
        return str(
            self._tokenizer.decode(
                tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


def _overlap(text: str, stop: str) -> int:
    """How many last characters of the text may be the first of a stop string."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
