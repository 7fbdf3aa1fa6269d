"""The bodies of chat and completion requests, read as vLLM reads them; what is not done here is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from stackserve.runtimes.peft.sampling import Sampling

COMPLETION_TOKENS = 16
"""Of a completion that names no `max_tokens`."""

OFF: tuple[Any, ...] = (None, False, 0, "", [], {}, "auto", "none")
"""Values with which a field asks for nothing."""

REFUSED = {
    "tools": "tools are not called",
    "functions": "functions are not called",
    "response_format": "answers are not constrained",
    "structured_outputs": "answers are not constrained",
    "guided_json": "answers are not constrained",
    "logit_bias": "scores are not biased",
    "frequency_penalty": "only repetition_penalty is applied",
    "presence_penalty": "only repetition_penalty is applied",
    "min_tokens": "an answer may end at once",
    "best_of": "one answer is made",
    "use_beam_search": "one answer is made",
    "echo": "the prompt is not repeated",
    "suffix": "text is not inserted",
    "prompt_logprobs": "prompts are not scored",
    "prompt_embeds": "prompts are text or tokens",
    "audio": "answers are text",
    "continue_final_message": "a message is begun, never continued",
}
"""Fields that would change the answer, and why they cannot."""

Count = Annotated[int, msgspec.Meta(ge=1)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]


class BadRequest(Exception):
    """The request cannot be answered; the message says why, `param` is the field."""

    def __init__(self, message: str, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message, self.param, self.status = message, param, status


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = False


class Body(msgspec.Struct, frozen=True):
    """What both routes take. Other fields are passed over, as vLLM does."""

    model: str
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = 1
    max_tokens: Count | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    min_p: Fraction | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False


class ChatBody(Body, frozen=True, kw_only=True):
    messages: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool = True


class CompletionBody(Body, frozen=True, kw_only=True):
    prompt: str | list[Any]
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    add_special_tokens: bool = True


AnyBody = ChatBody | CompletionBody


def read_chat(raw: bytes) -> ChatBody:
    """Raises BadRequest."""
    body: ChatBody = _read(raw, ChatBody)
    return body


def read_completion(raw: bytes) -> CompletionBody:
    """Raises BadRequest."""
    body: CompletionBody = _read(raw, CompletionBody)
    return body


def _read(raw: bytes, kind: type[Any]) -> Any:
    try:
        fields = msgspec.json.decode(raw, type=dict[str, Any])
        body = msgspec.convert(fields, kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(str(error)) from None
    _refuse(fields)
    return body


def _refuse(fields: Mapping[str, Any]) -> None:
    if fields.get("n") not in (None, 1):
        raise BadRequest("n must be 1: one answer is made with this runtime; ask again", "n")
    for name, why in REFUSED.items():
        value = fields.get(name)
        plain = name == "response_format" and value == {"type": "text"}
        if value not in OFF and not plain and not (name == "best_of" and value == 1):
            raise BadRequest(f"{name} is not supported by this runtime: {why}", name)


def sampling_of(
    body: AnyBody, defaults: Mapping[str, float], prompt_tokens: int, max_model_len: int
) -> Sampling:
    """A request's wishes, those of the base where it has none. Raises BadRequest when its prompt and
    answer have no room.
    """
    room = max_model_len - prompt_tokens
    asked = body.max_tokens
    if isinstance(body, ChatBody):
        asked = body.max_completion_tokens or asked
    elif asked is None:
        asked = min(COMPLETION_TOKENS, max(room, 1))
    if room < (asked or 1):
        answer = f" and {asked} of the answer" if asked else ""
        raise BadRequest(
            f"This model's maximum context length is {max_model_len} tokens. However, your request has "
            f"{prompt_tokens} tokens of input{answer}. Please shorten it.",
            "max_tokens" if asked else None,
        )

    def wish(name: str, otherwise: float) -> float:
        value = getattr(body, name)
        return defaults.get(name, otherwise) if value is None else value

    return Sampling(
        max_tokens=asked or room,
        temperature=wish("temperature", 1.0),
        top_p=wish("top_p", 1.0),
        top_k=max(int(wish("top_k", 0)), 0),
        min_p=wish("min_p", 0.0),
        repetition_penalty=wish("repetition_penalty", 1.0),
        seed=body.seed,
        stop=_stop(body.stop),
        stop_token_ids=frozenset(body.stop_token_ids or ()),
        ignore_eos=body.ignore_eos,
        include_stop=body.include_stop_str_in_output,
        top_logprobs=_top_logprobs(body),
    )


def _stop(stop: str | list[str] | None) -> tuple[str, ...]:
    strings = [stop] if isinstance(stop, str) else stop or []
    if "" in strings:
        raise BadRequest("stop cannot contain an empty string", "stop")
    return tuple(strings)


def _top_logprobs(body: AnyBody) -> int | None:
    if isinstance(body, CompletionBody):
        return body.logprobs
    if body.top_logprobs and not body.logprobs:
        raise BadRequest(
            "when using `top_logprobs`, `logprobs` must be set to true", "top_logprobs"
        )
    return (body.top_logprobs or 0) if body.logprobs else None
