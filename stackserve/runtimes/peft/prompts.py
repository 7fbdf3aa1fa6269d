"""From a request's messages or prompt to tokens."""

from __future__ import annotations

from typing import Any

from stackserve.runtimes.peft.bodies import BadRequest, ChatBody, CompletionBody

MOST_PROMPTS = 64
"""In one completion request."""


def chat_prompt(body: ChatBody, tokenizer: Any) -> tuple[int, ...]:
    """The messages by the base's chat template. Raises BadRequest."""
    if not tokenizer.chat_template:
        raise BadRequest("the base has no chat template; ask /v1/completions", "messages")
    messages = [_flat(message) for message in body.messages]
    try:
        text = tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=body.add_generation_prompt,
            **(body.chat_template_kwargs or {}),
        )
    except Exception as error:  # a template raises what it likes at messages it does not take
        raise BadRequest(f"the chat template does not take these messages: {error}") from error
    # The template has written the special tokens.
    return _some(tokenizer(text, add_special_tokens=False)["input_ids"])


def _flat(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its content as one text."""
    content = message.get("content")
    if not isinstance(message.get("role"), str):
        raise BadRequest("a message needs a role", "messages")
    if not isinstance(content, list):
        return message
    parts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            raise BadRequest("this runtime takes messages of text alone", "messages")
        parts.append(str(part.get("text", "")))
    return {**message, "content": "\n".join(parts)}


def completion_prompts(
    body: CompletionBody, tokenizer: Any, vocabulary: int
) -> list[tuple[int, ...]]:
    """A prompt for each answer: a text, tokens, or a list of either. Raises BadRequest."""
    given = body.prompt
    many = given if isinstance(given, list) and _is_list_of_prompts(given) else [given]
    if len(many) > MOST_PROMPTS:
        raise BadRequest(f"prompt has {len(many)} prompts; send {MOST_PROMPTS} at most", "prompt")
    return [_tokens(each, body, tokenizer, vocabulary) for each in many]


def _is_list_of_prompts(given: list[Any]) -> bool:
    return all(isinstance(each, str | list) for each in given)


def _tokens(prompt: Any, body: CompletionBody, tokenizer: Any, vocabulary: int) -> tuple[int, ...]:
    if isinstance(prompt, str):
        ids = tokenizer(prompt, add_special_tokens=body.add_special_tokens)["input_ids"]
        return _some(ids)
    if not all(type(each) is int for each in prompt):
        raise BadRequest("prompt must be a text, a list of tokens, or a list of either", "prompt")
    if any(not 0 <= each < vocabulary for each in prompt):
        raise BadRequest(f"prompt has a token outside the vocabulary of {vocabulary}", "prompt")
    return _some(prompt)


def _some(tokens: list[int]) -> tuple[int, ...]:
    if not tokens:
        raise BadRequest("the prompt has no tokens", "prompt")
    return tuple(tokens)
