"""OpenAI's answers, whole and as events, as vLLM writes them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.responses import Response

from stackserve.runtimes.peft.rows import Logprob, Piece

DONE = b"data: [DONE]\n\n"

ERROR_TYPES = {
    400: "BadRequestError",
    404: "NotFoundError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
}


def error_body(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """In OpenAI's shape."""
    kind = ERROR_TYPES.get(status, "InternalServerError")
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def json_answer(body: Any, status: int = 200) -> Response:
    """A whole answer."""
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def event(body: Any) -> bytes:
    """A part of a stream."""
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


@dataclass
class Choice:
    """What has come of one row so far."""

    text: str = ""
    tokens: int = 0
    finish: str | None = None
    logprobs: list[Logprob] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """The next part of it."""
        self.text += piece.text
        self.tokens += 1
        self.finish = piece.finish
        if piece.logprob is not None:
            self.logprobs.append(piece.logprob)


class Answer:
    """Of one request, in the words of its route."""

    def __init__(self, model: str, prompt_tokens: int, tokenizer: Any, *, chat: bool) -> None:
        prefix = "chatcmpl-" if chat else "cmpl-"
        self._id = prefix + uuid.uuid4().hex
        self._created = int(time.time())
        self._model = model
        self._prompt_tokens = prompt_tokens
        self._tokenizer = tokenizer
        self._chat = chat

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """All at once."""
        told = [self._choice(index, choice) for index, choice in enumerate(choices)]
        return {**self._head(chunk=False), "choices": told, "usage": self._usage(choices)}

    def opening(self, index: int) -> list[bytes]:
        """The event before the first token: whose words they are."""
        if not self._chat:
            return []
        return [self._chunk(index, {"delta": {"role": "assistant", "content": ""}}, None)]

    def part(self, index: int, piece: Piece) -> bytes | None:
        """The event of a piece, None where there is nothing to tell yet."""
        logprobs = self._logprobs([piece.logprob]) if piece.logprob else None
        if not piece.text and piece.finish is None and logprobs is None:
            return None
        said = {"delta": {"content": piece.text}} if self._chat else {"text": piece.text}
        return self._chunk(index, {**said, "logprobs": logprobs}, piece.finish)

    def usage(self, choices: Sequence[Choice]) -> bytes:
        """The event after all tokens."""
        return event({**self._head(chunk=True), "choices": [], "usage": self._usage(choices)})

    def _chunk(self, index: int, said: dict[str, Any], finish: str | None) -> bytes:
        choice = {"index": index, **said, "finish_reason": finish}
        return event({**self._head(chunk=True), "choices": [choice]})

    def _head(self, *, chunk: bool) -> dict[str, Any]:
        kind = "text_completion"
        if self._chat:
            kind = "chat.completion.chunk" if chunk else "chat.completion"
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        said: dict[str, Any] = {"text": choice.text}
        if self._chat:
            said = {"message": {"role": "assistant", "content": choice.text}}
        logprobs = self._logprobs(choice.logprobs) if choice.logprobs else None
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": choice.finish}

    def _usage(self, choices: Sequence[Choice]) -> dict[str, int]:
        answered = sum(choice.tokens for choice in choices)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": answered,
            "total_tokens": self._prompt_tokens + answered,
        }

    def _logprobs(self, of_tokens: Sequence[Logprob]) -> dict[str, Any]:
        if self._chat:
            return {"content": [self._chat_logprob(each) for each in of_tokens]}
        texts = [self._text(each.token) for each in of_tokens]
        return {
            "tokens": texts,
            "token_logprobs": [each.value for each in of_tokens],
            "top_logprobs": [
                {self._text(token): value for token, value in each.top} for each in of_tokens
            ],
            "text_offset": [sum(map(len, texts[:number])) for number in range(len(texts))],
        }

    def _chat_logprob(self, logprob: Logprob) -> dict[str, Any]:
        top = [self._entry(token, value) for token, value in logprob.top]
        return {**self._entry(logprob.token, logprob.value), "top_logprobs": top}

    def _entry(self, token: int, value: float) -> dict[str, Any]:
        text = self._text(token)
        return {"token": text, "logprob": value, "bytes": list(text.encode())}

    def _text(self, token: int) -> str:
        return str(self._tokenizer.decode([token]))
