"""Request bodies: what they mean, and the sentence of each that cannot be answered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stackserve.runtimes.peft.bodies import BadRequest, read_chat, read_completion, sampling_of

MESSAGES = [{"role": "user", "content": "Hello"}]


def chat(**fields: Any) -> Any:
    return read_chat(json.dumps({"model": "m", "messages": MESSAGES, **fields}).encode())


def completion(**fields: Any) -> Any:
    return read_completion(json.dumps({"model": "m", "prompt": "Hello", **fields}).encode())


def sampling(body: Any, *, room: int = 100, **defaults: float) -> Any:
    return sampling_of(body, defaults, 10, 10 + room)


def test_chat_may_fill_the_context_and_a_completion_has_16_tokens() -> None:
    assert sampling(chat()).max_tokens == 100
    assert sampling(completion()).max_tokens == 16
    assert sampling(completion(), room=3).max_tokens == 3
    assert sampling(chat(max_tokens=5)).max_tokens == 5
    assert sampling(chat(max_tokens=5, max_completion_tokens=6)).max_tokens == 6


def test_the_base_decides_what_a_request_leaves_open() -> None:
    assert sampling(chat(), temperature=0.6, top_k=20).temperature == 0.6
    assert sampling(chat(temperature=0), temperature=0.6).temperature == 0
    assert sampling(chat(), top_k=20).top_k == 20
    assert sampling(chat(top_k=-1), top_k=20).top_k == 0


@pytest.mark.parametrize("fields", [{"max_tokens": 101}, {"max_completion_tokens": 200}])
def test_more_tokens_than_there_is_room_for_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(BadRequest, match="maximum context length is 110 tokens"):
        sampling(chat(**fields))


def test_a_prompt_that_fills_the_context_is_refused() -> None:
    with pytest.raises(BadRequest, match="10 tokens of input"):
        sampling_of(chat(), {}, 10, 10)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"use_beam_search": True}, "use_beam_search"),
    ],
)
def test_what_would_change_the_answer_and_is_not_done_is_refused_by_name(
    fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequest, match=param) as refused:
        chat(**fields)
    assert refused.value.param == param


def test_fields_that_ask_for_nothing_are_taken() -> None:
    chat(
        n=1, tools=[], tool_choice="none", presence_penalty=0.0, logit_bias=None, user="me",
        response_format={"type": "text"},
    )  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -1}, {"top_p": 0}, {"max_tokens": 0}, {"max_tokens": "9"},
        {"messages": []}, {"messages": "x"}, {"stop": 3},
    ],
)  # fmt: skip
def test_a_value_of_a_wrong_kind_is_refused_by_its_place(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=rf"\$\.{next(iter(fields))}"):
        chat(**fields)


def test_log_probabilities_are_asked_as_each_route_does() -> None:
    assert sampling(chat(logprobs=True, top_logprobs=3)).top_logprobs == 3
    assert sampling(chat(logprobs=True)).top_logprobs == 0
    assert sampling(chat()).top_logprobs is None
    assert sampling(completion(logprobs=2)).top_logprobs == 2
    with pytest.raises(BadRequest, match="must be set to true"):
        sampling(chat(top_logprobs=3))


def test_stop_is_a_text_or_several_and_never_empty() -> None:
    assert sampling(chat(stop="x")).stop == ("x",)
    assert sampling(chat(stop=["x", "y"])).stop == ("x", "y")
    with pytest.raises(BadRequest, match="empty"):
        sampling(chat(stop=""))


def test_what_is_no_object_is_refused() -> None:
    with pytest.raises(BadRequest):
        read_chat(b"[1]")
