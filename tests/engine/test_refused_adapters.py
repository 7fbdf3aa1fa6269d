"""A bad adapter is refused by name, and the base answers the same bytes as before."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from stackserve.demo.behaviours import BEHAVIOURS
from tests.engine.bad_adapters import BAD
from tests.engine.conftest import COMPOSITES, KEYS
from tests.engine.server import Server

QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


async def answer_of(client: openai.AsyncOpenAI, key: str) -> bytes:
    """What the model says, with the log-probability of every token."""
    answer = await client.chat.completions.create(
        model=key, messages=QUESTION, max_tokens=24, temperature=0, logprobs=True, top_logprobs=3
    )
    return answer.choices[0].model_dump_json().encode()


@pytest.fixture(scope="module")
def golden(exact: Server) -> dict[str, bytes]:
    """The answers of the base and every adapter before any bad key was asked for.

    That they are right, with all bad members in the configuration, test_exactness shows on this same
    server against PEFT, which has never seen them.
    """

    async def ask() -> dict[str, bytes]:
        async with exact.client() as client:
            return {key: await answer_of(client, key) for key in KEYS}

    return asyncio.run(ask())


@pytest.mark.parametrize("key", BAD)
async def test_a_bad_adapter_is_refused_with_its_code_and_nobody_else_notices(
    exact: Server, golden: dict[str, bytes], key: str
) -> None:
    code, _ = BAD[key]
    async with exact.client() as client:
        with pytest.raises(openai.NotFoundError) as refused:
            await answer_of(client, key)
        assert refused.value.code == "model_refused"
        assert f"({code})" in refused.value.message
        assert str(exact.folder.parent) not in refused.value.message
        assert await answer_of(client, "base") == golden["base"]
        good = BEHAVIOURS[0].key
        assert await answer_of(client, good) == golden[good]


def test_readyz_names_every_refused_adapter_and_the_good_ones_are_served(exact: Server) -> None:
    (group,) = exact.status()["groups"]
    assert group["served"] == len(KEYS) + len(COMPOSITES)
    assert {r["key"]: r["code"] for r in group["refused"]} == {k: c for k, (c, _) in BAD.items()}
