"""A stacked group with `engine.runtime: transformers` through the gateway, asked with OpenAI's client."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from transformers import AutoTokenizer

from stackserve.adapters import validate_source
from stackserve.app import Gateway, open_gateway
from stackserve.engine_settings import EngineSettings
from stackserve.server_settings import ServerSettings
from stackserve.settings import BaseSettings, GroupSettings, MemberSettings, Settings
from tests.running import eventually
from tests.runtimes.peft.tiny_peft import greedy, load, lora, make_adapter, with_peft, write_gpt_neo

PATIENCE = 120.0
QUESTION: Any = [{"role": "user", "content": "Who are you?"}]
PROMPT = "user: Who are you?\n"
"""The question in the words of the template."""


@dataclass(frozen=True)
class Served:
    gateway: Gateway
    client: openai.AsyncOpenAI
    server: ServerSettings

    async def ready(self) -> str:
        async with asyncio.timeout(PATIENCE):
            while (status := self.gateway.statuses()[0]).state != "ready":
                assert status.state != "failed", status.detail
                await self.gateway.changed()
        return status.detail

    async def update(self, group: GroupSettings) -> str:
        settings = Settings(server=self.server, groups=(group,))
        (update,) = await self.gateway.update(lambda: settings)
        return update.sentence


@asynccontextmanager
async def served(group: GroupSettings) -> AsyncIterator[Served]:
    settings = Settings(server=ServerSettings(port=0), groups=(group,))
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(open_gateway(settings, Path, validate_source))
        url = f"http://127.0.0.1:{gateway.port}/v1"
        client = openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0)
        await stack.enter_async_context(client)
        yield Served(gateway, client, settings.server)


def group_of(base: Path, members: dict[str, Path], **engine: Any) -> GroupSettings:
    return GroupSettings(
        name="g",
        base=BaseSettings(path=str(base)),
        members=tuple(MemberSettings(key=key, path=str(path)) for key, path in members.items()),
        engine=EngineSettings(runtime="transformers", dtype="float32", **engine),
    )


def expected(base: Path, adapter: Path | None, prompt: str = PROMPT, tokens: int = 24) -> str:
    """PEFT's own greedy answer."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = load(base) if adapter is None else with_peft(base, adapter)
    ids = tokenizer(prompt)["input_ids"]
    answer = greedy(model, ids, tokens)
    return str(tokenizer.decode(answer, skip_special_tokens=True))


async def streamed(client: openai.AsyncOpenAI, model: str) -> tuple[str, Any]:
    """The text of a streamed answer, and its usage."""
    text, usage = "", None
    async for event in await client.chat.completions.create(
        model=model, messages=QUESTION, max_tokens=24, temperature=0, stream=True,
        stream_options={"include_usage": True},
    ):  # fmt: skip
        usage = event.usage or usage
        text += event.choices[0].delta.content or "" if event.choices else ""
    return text, usage


async def test_members_of_kinds_that_vllm_lacks_answer_as_peft_does(
    llama: Path, adapter: Callable[[str], Path]
) -> None:
    members = {kind: adapter(kind) for kind in ("dora", "loha", "ia3", "modules-to-save")}
    group = group_of(llama, members, adapter_slots=2, max_model_len=200)
    async with served(group) as running:
        detail = await running.ready()
        assert detail.startswith("answers: transformers ")
        assert detail.endswith("200 tokens (slower than vLLM: one adapter a batch)")
        for model, folder in ({"base": None} | members).items():
            answer = await running.client.chat.completions.create(
                model=model, messages=QUESTION, max_tokens=24, temperature=0
            )
            text = expected(llama, folder)
            assert answer.model == model
            assert answer.choices[0].message.content == text
            assert answer.choices[0].finish_reason in ("length", "stop")
            assert answer.usage is not None
            assert await streamed(running.client, model) == (text, answer.usage)
            completion = await running.client.completions.create(
                model=model, prompt=["one", "and another"], max_tokens=9, temperature=0
            )
            assert [each.text for each in completion.choices] == [
                expected(llama, folder, prompt, 9) for prompt in ("one", "and another")
            ]
        await _answers_more_than_text(running.client)
        await _refuses_with_sentences(running.client)


async def _answers_more_than_text(client: openai.AsyncOpenAI) -> None:
    chat = await client.chat.completions.create(
        model="dora", messages=QUESTION, max_tokens=3, temperature=0, logprobs=True, top_logprobs=2
    )
    assert chat.choices[0].logprobs is not None
    told = chat.choices[0].logprobs.content
    assert told is not None
    assert len(told) == 3
    assert all(each.top_logprobs[0].logprob == each.logprob <= 0 for each in told)
    whole = await client.completions.create(
        model="base", prompt="x", max_tokens=20, temperature=0, extra_body={"ignore_eos": True}
    )
    stop = whole.choices[0].text[4:6]
    cut = await client.completions.create(
        model="base", prompt="x", max_tokens=20, temperature=0, stop=stop
    )
    assert cut.choices[0].text == whole.choices[0].text.partition(stop)[0]
    assert cut.choices[0].finish_reason == "stop"


async def _refuses_with_sentences(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="n must be 1") as refused:
        await client.chat.completions.create(model="dora", messages=QUESTION, n=2)
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["type"] == "BadRequestError"
    assert (refused.value.body["code"], refused.value.body["param"]) == (400, "n")
    with pytest.raises(openai.BadRequestError, match="maximum context length is 200 tokens"):
        await client.completions.create(model="dora", prompt="x", max_tokens=1000)
    with pytest.raises(openai.NotFoundError):
        await client.completions.create(model="nobody", prompt="x")


async def test_members_come_and_go_while_it_runs_and_a_bad_one_harms_nobody(
    llama: Path, adapter: Callable[[str], Path], tmp_path: Path
) -> None:
    unfit = shutil.copytree(adapter("lora"), tmp_path / "unfit")
    config = unfit / "adapter_config.json"
    config.write_text(config.read_text().replace('"v_proj"', '"k_proj"'))
    async with served(group_of(llama, {})) as running:
        await running.ready()
        new = {"dora": adapter("dora"), "unfit": unfit}
        assert await running.update(group_of(llama, new)) == "2 added; 2 served, 1 refused"
        (refused,) = running.gateway.statuses()[0].refused
        assert (refused.key, refused.code) == ("unfit", "adapter_engine_refused")
        assert (await streamed(running.client, "dora"))[0] == expected(llama, new["dora"])
        with pytest.raises(openai.NotFoundError):
            await streamed(running.client, "unfit")
        await running.update(group_of(llama, {"loha": adapter("loha")}))
        assert (await streamed(running.client, "loha"))[0] == expected(llama, adapter("loha"))
        with pytest.raises(openai.NotFoundError):
            await streamed(running.client, "dora")


async def test_who_goes_away_is_not_answered_any_more(llama: Path) -> None:
    async with served(group_of(llama, {})) as running:
        await running.ready()
        long: Any = {"max_tokens": 16_000, "temperature": 0, "extra_body": {"ignore_eos": True}}
        stream = await running.client.completions.create(
            model="base", prompt="x", stream=True, **long
        )
        await anext(aiter(stream))
        await stream.close()
        with pytest.raises(openai.APITimeoutError):
            await running.client.completions.create(model="base", prompt="x", timeout=0.5, **long)
        await eventually(partial(_gave_up, running, 2), PATIENCE)


async def _gave_up(running: Served, answers: int) -> bool:
    """Whether the worker counts so many answers of the base that nobody wanted to the end."""
    url = f"http://127.0.0.1:{running.gateway.port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        lines = (await response.text()).splitlines()
    counts = [line for line in lines if 'outcome="abort"' in line and 'key="base"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in counts) == answers


async def test_an_architecture_that_vllm_lacks_is_served_with_its_adapters(tmp_path: Path) -> None:
    base = write_gpt_neo(tmp_path / "neo")
    config = lora(target_modules=["k_proj", "c_fc"], use_dora=True)
    folder = make_adapter(base, tmp_path / "adapter", config)
    async with served(group_of(base, {"a": folder})) as running:
        await running.ready()
        for model, adapter in {"base": None, "a": folder}.items():
            assert (await streamed(running.client, model))[0] == expected(base, adapter)
