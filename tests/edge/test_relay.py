"""A whole gateway over HTTP, with a fake worker that stays healthy throughout."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from tests.conftest import Models
from tests.running import CHAT, Running, question, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

IDENTITY = {"x-stackserve-group", "x-stackserve-version", "x-stackserve-key",
            "x-stackserve-adapter-sha256"}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(models: Models) -> AsyncIterator[Running]:
    broken = models.group(members=("a", "b", "refused"), start={"refuses": "refused"})
    async with running(broken, max_body_mib=2) as served:
        yield served


async def test_streams_to_the_official_client(gateway: Running) -> None:
    stream = await gateway.openai.chat.completions.create(**question("one two three", stream=True))
    words = [chunk.choices[0].delta.content async for chunk in stream]
    assert words == ["one", "two", "three"]


async def test_answers_whole_to_the_official_client(gateway: Running) -> None:
    completion = await gateway.openai.chat.completions.create(**question("one two"))
    assert completion.choices[0].message.content == "one two"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["a", "g/a", "b", "base", "g/base"])
async def test_says_which_weights_answered(gateway: Running, model: str, stream: bool) -> None:
    async with gateway.chat("hello", model=model, stream=stream) as response:
        headers = response.headers
    _, card = await gateway.json(f"/v1/models/{model}")
    assert headers["x-stackserve-group"] == "g"
    assert headers["x-stackserve-key"] == card["id"] == model.removeprefix("g/")
    assert headers["x-stackserve-version"] == card["version"] == gateway.status().version
    assert headers["x-stackserve-adapter-sha256"] == (card["adapter_sha256"] or "none")
    assert len(headers["x-request-id"]) == 32


async def test_asks_the_worker_for_exactly_the_named_weights(gateway: Running) -> None:
    for model in ("a", "b"):
        async with gateway.chat("whoami", model=model) as response:
            name = (await response.json())["choices"][0]["message"]["content"]
        assert name == f"{model}@{response.headers['x-stackserve-adapter-sha256']}"


async def test_passes_the_other_fields_on_byte_for_byte(gateway: Running) -> None:
    sent = '{"model":"base","messages":[{"content":"body","role":"user"}],"top_p":1.50e-1,"x":"\\u00e9"}'
    async with gateway.http.post(CHAT, data=sent) as response:
        assert (await response.json())["choices"][0]["message"]["content"] == sent


async def test_never_names_the_base_for_an_unknown_model(gateway: Running) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await gateway.openai.chat.completions.create(**question("hi", model="g/aa"))
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert "did you mean g/a" in str(caught.value)
    assert not IDENTITY & set(caught.value.response.headers)
    assert "x-request-id" in caught.value.response.headers


async def test_says_why_a_member_is_not_served(gateway: Running) -> None:
    with pytest.raises(openai.NotFoundError, match="adapter_engine_refused") as caught:
        await gateway.openai.chat.completions.create(**question("hi", model="refused"))
    assert caught.value.code == "model_refused"


async def test_passes_the_workers_refusal_through(gateway: Running) -> None:
    async with gateway.chat("refuse", stream=True) as response:
        error = (await response.json())["error"]
    assert (response.status, error["message"]) == (400, "refused")
    assert set(response.headers) >= IDENTITY


async def test_passes_the_engines_own_error_event_on_and_counts_it(gateway: Running) -> None:
    async with gateway.chat("error", stream=True) as response:
        events = (await response.read()).split(b"\n\n")
    assert b'"engine died"' in events[1]
    assert events[-2] == b"data: [DONE]"
    assert 'outcome="engine_error"' in await gateway.text("/metrics")


async def test_a_stream_that_ends_inside_an_event_is_an_error(gateway: Running) -> None:
    async with gateway.chat("torn", stream=True) as response:
        raw = await response.read()
    assert raw.startswith(b"event: error\ndata: {")
    assert b"engine_failed" in raw


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        (CHAT, b"{", 400, "invalid_json"),
        (CHAT, b'{"messages": []}', 400, "model_required"),
        (CHAT, b'{"model": "' + b"x" * 2**21 + b'"}', 413, "body_too_large"),
        (CHAT, b'{"model": "\\ud800"}', 400, "invalid_json"),
        ("/v1/embeddings", b'{"model": "a", "input": "x"}', 400, "unsupported_task"),
        ("/v1/load_lora_adapter", b"{}", 404, "route_not_found"),
        ("/v1/models", b"{}", 405, "method_not_allowed"),
    ],
)
async def test_refuses_in_openais_shape(
    gateway: Running, path: str, body: bytes, status: int, code: str
) -> None:
    async with gateway.http.post(path, data=io.BytesIO(body)) as response:
        error = (await response.json())["error"]
    assert (response.status, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert response.content_type == "application/json"


async def test_counts_the_bytes_of_a_body_of_unknown_length(gateway: Running) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 2**16

    async with gateway.http.post(CHAT, data=endless()) as response:
        assert response.status == 413


async def test_passes_a_large_body_on(gateway: Running) -> None:
    image = "x" * (2**21 - 1000)
    async with gateway.http.post(CHAT, data=io.BytesIO(json.dumps(question(image)).encode())) as it:
        assert (await it.json())["choices"][0]["message"]["content"] == image


async def test_lists_every_served_model_once_and_no_refused_one(gateway: Running) -> None:
    _, listed = await gateway.json("/v1/models")
    assert [(each["id"], each["parent"]) for each in listed["data"]] == [
        ("base", None),
        ("a", "base"),
        ("b", "base"),
    ]
    listed_by_client = await gateway.openai.models.list()
    assert [model.id for model in listed_by_client.data] == ["base", "a", "b"]


async def test_shows_a_model_by_its_id_though_it_has_a_slash(gateway: Running) -> None:
    assert (await gateway.openai.models.retrieve("g/a")).id == "a"
    with pytest.raises(openai.NotFoundError):
        await gateway.openai.models.retrieve("nobody")


async def test_counts_each_request_once_by_its_outcome(gateway: Running) -> None:
    async def counted(outcome: str, key: str) -> float:
        label = f'key="{key}",outcome="{outcome}"'
        lines = (await gateway.text("/metrics")).splitlines()
        return sum(float(x.rpartition(" ")[2]) for x in lines if label in x and "_total" in x)

    before = await counted("ok", "a"), await counted("model_not_found", "-")
    for model in ("a", "nobody"):
        async with gateway.chat("hi", model=model):
            pass
    assert await counted("ok", "a") == before[0] + 1
    assert await counted("model_not_found", "-") == before[1] + 1


async def test_ready_names_what_is_not_served(gateway: Running) -> None:
    status, ready = await gateway.json("/readyz")
    (group,) = ready["groups"]
    assert (status, ready["status"], group["state"], group["served"]) == (200, "ready", "ready", 3)
    assert [(each["key"], each["code"]) for each in group["refused"]] == [
        ("refused", "adapter_engine_refused")
    ]


async def test_is_alive(gateway: Running) -> None:
    assert await gateway.json("/livez") == (200, {"status": "alive"})


async def test_each_event_of_a_stream_is_json(gateway: Running) -> None:
    async with gateway.chat("one two", stream=True) as response:
        *events, done, nothing = (await response.read()).split(b"\n\n")
    assert response.content_type == "text/event-stream"
    assert response.headers["cache-control"] == "no-cache"
    parsed: list[Any] = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert [each["choices"][0]["delta"]["content"] for each in parsed] == ["one", "two"]
    assert (done, nothing) == (b"data: [DONE]", b"")
