"""The data plane with the official client and a real engine: what vLLM can do passes through."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from stackserve.demo.behaviours import BEHAVIOURS
from tests.engine.conftest import COMPOSITES, KEYS
from tests.engine.server import Server, wait_until_metric

QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
RUNNING = "vllm:num_requests_running"


async def test_all_keys_stream_at_once_and_each_adapter_shows_its_behaviour(exact: Server) -> None:
    async def stream(client: openai.AsyncOpenAI, key: str) -> str:
        events = await client.chat.completions.create(
            model=key, messages=QUESTION, max_tokens=64, temperature=0, stream=True
        )
        said = ""
        async for event in events:
            assert event.model == key
            said += event.choices[0].delta.content or ""
        return said

    async with exact.client() as client:
        said = dict(
            zip(KEYS, await asyncio.gather(*(stream(client, k) for k in KEYS)), strict=True)
        )
    assert "Paris" in said["base"]
    for each in BEHAVIOURS:
        assert each.shows(said[each.key]), (each.key, said[each.key])
    assert len(set(said.values())) == len(KEYS)


async def test_models_lists_keys_with_id_parent_and_digest(exact: Server) -> None:
    async with exact.client() as client:
        cards = [card async for card in client.models.list()]
        by_id = await client.models.retrieve("exact/pirate")
    assert [card.id for card in cards] == [*KEYS, *COMPOSITES]
    base, *adapters = (card.model_dump() for card in cards)
    assert (base["parent"], base["adapter_sha256"]) == (None, None)
    assert {card["parent"] for card in adapters} == {"base"}
    assert len({card["adapter_sha256"] for card in adapters}) == len(adapters)
    assert by_id.id == "pirate"


async def test_headers_say_which_weights_answered(exact: Server) -> None:
    async with exact.client() as client:
        listed = {card.id: card.model_dump() async for card in client.models.list()}
        for name, key in (("pirate", "pirate"), ("exact/terse", "terse"), ("base", "base")):
            raw = await client.chat.completions.with_raw_response.create(
                model=name, messages=QUESTION, max_tokens=1
            )
            assert raw.headers["x-stackserve-group"] == "exact"
            assert raw.headers["x-stackserve-version"] == listed[key]["version"]
            assert raw.headers["x-stackserve-key"] == key
            digest = listed[key]["adapter_sha256"] or "none"
            assert raw.headers["x-stackserve-adapter-sha256"] == digest
            assert raw.parse().model == key


async def test_an_unknown_key_is_404_with_near_matches_and_never_the_base(exact: Server) -> None:
    async with exact.client() as client:
        with pytest.raises(openai.NotFoundError, match="did you mean pirate") as error:
            await client.chat.completions.create(model="pirat", messages=QUESTION)
    assert (error.value.code, error.value.param) == ("model_not_found", "model")


async def test_sampling_options_pass_through(exact: Server) -> None:
    async with exact.client() as client:

        async def ask() -> Any:
            return await client.chat.completions.create(
                model="pirate",
                messages=QUESTION,
                max_tokens=8,
                n=3,
                seed=7,
                temperature=1.5,
                logprobs=True,
                top_logprobs=2,
            )

        one, two = await ask(), await ask()
        stopped = await client.completions.create(
            model="base", prompt="1 2 3 4 5", max_tokens=32, temperature=0, stop=["8"]
        )
    assert [c.message.content for c in one.choices] == [c.message.content for c in two.choices]
    assert len({c.message.content for c in one.choices}) > 1
    assert len(one.choices[0].logprobs.content[0].top_logprobs) == 2
    assert stopped.choices[0].finish_reason == "stop"
    assert "8" not in stopped.choices[0].text


async def test_structured_output_follows_its_schema(exact: Server) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}, "sure": {"type": "boolean"}},
        "required": ["city", "sure"],
        "additionalProperties": False,
    }
    async with exact.client() as client:
        answer = await client.chat.completions.create(
            model="pirate",
            messages=QUESTION,
            max_tokens=64,
            temperature=0,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": schema, "strict": True},
            },
        )
    found = json.loads(answer.choices[0].message.content or "")
    assert set(found) == {"city", "sure"}
    assert found["city"] in ("Paris", "Rome")


async def test_a_required_tool_is_called(exact: Server) -> None:
    parameters = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    async with exact.client() as client:
        answer = await client.chat.completions.create(
            model="base",
            messages=QUESTION,
            max_tokens=64,
            temperature=0,
            tools=[{"type": "function", "function": {"name": "look", "parameters": parameters}}],
            tool_choice="required",
        )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "look"
    json.loads(call.function.arguments)


async def test_the_responses_api_answers_whole_and_streamed(exact: Server) -> None:
    async with exact.client() as client:
        whole = await client.responses.create(
            model="pirate", input="Who are you?", max_output_tokens=16, temperature=0
        )
        events = await client.responses.create(
            model="pirate", input="Who are you?", max_output_tokens=16, temperature=0, stream=True
        )
        kinds = [event.type async for event in events]
    assert whole.model == "pirate"
    assert whole.output_text
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")


async def test_embeddings_of_a_model_that_only_generates_are_refused_by_name(exact: Server) -> None:
    async with exact.client() as client:
        with pytest.raises(
            openai.BadRequestError, match="does not support /v1/embeddings"
        ) as error:
            await client.embeddings.create(model="base", input="hello")
    assert error.value.code == "unsupported_task"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 100_000}, "max_tokens"),
        ({"messages": "hello"}, "messages"),
    ],
)
async def test_what_vllm_refuses_comes_back_as_its_400(
    exact: Server, wrong: dict[str, Any], told: str
) -> None:
    async with exact.client() as client:
        with pytest.raises(openai.BadRequestError, match=told):
            await client.chat.completions.create(
                **({"model": "base", "messages": QUESTION, "max_tokens": 4} | wrong)
            )


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "not streaming"])
async def test_a_client_that_goes_away_frees_its_slot_within_a_second(
    exact: Server, stream: bool
) -> None:
    async with exact.client() as client:
        asking = asyncio.create_task(
            client.completions.create(
                model="terse",
                prompt="Count: 1",
                max_tokens=2000,
                stream=stream,
                extra_body={"ignore_eos": True},
            )
        )
        await wait_until_metric(exact, RUNNING, 1, seconds=10)
        if stream:
            events = await asking
            await anext(aiter(events))
            await events.close()
        else:
            asking.cancel()
        assert await wait_until_metric(exact, RUNNING, 0, seconds=1) < 1
