"""Aliases over HTTP: one name, several members, and a shadow whose answers nobody sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from stackserve.edge.shadow import MOST
from stackserve.settings import AliasSettings, GroupSettings
from tests.conftest import Models
from tests.edge.prometheus import Metrics
from tests.running import PATIENCE, Running, eventually, running


def with_alias(
    group: GroupSettings, members: dict[str, float], shadow: str | None = None
) -> GroupSettings:
    alias = AliasSettings(key="canary", members=members, shadow=shadow)
    return group.model_copy(update={"aliases": (alias,)})


async def answered(served: Running, model: str = "canary", words: str = "whoami") -> Any:
    """The headers and the content of an answer."""
    async with served.chat(words, model=model) as response:
        assert response.status == 200, await response.text()
        return response.headers, (await response.json())["choices"][0]["message"]["content"]


async def shadows(served: Running, outcome: str, key: str = "b") -> float:
    """How many have ended so."""
    metrics = Metrics([await served.text("/metrics")])
    name = "stackserve_shadow_requests_total"
    found = [each for each in metrics.labels(name) if each["outcome"] == outcome]
    return metrics(name, group="g", key=key, outcome=outcome) if found else 0


async def arrived(served: Running, key: str) -> float:
    """How many requests for a member its worker has seen."""
    snapshot = await served.ask_worker("/stackserve/adapters")
    return float(next(each["arrived"] for each in snapshot["keys"] if each["key"] == key))


@asynccontextmanager
async def shadowed(models: Models, **engine: Any) -> AsyncIterator[Running]:
    """A gateway whose alias asks `a`, and `b` in its shadow."""
    group = with_alias(models.group(members=("a", "b"), **engine), {"a": 1}, shadow="b")
    async with running(group) as served:
        yield served


async def test_an_alias_answers_with_each_member_and_says_which(models: Models) -> None:
    group = with_alias(models.group(members=("a", "b")), {"a": 1, "b": 1})
    async with running(group) as served:
        seen = set()
        async with asyncio.timeout(PATIENCE):
            while seen != {"a", "b"}:
                headers, content = await answered(served)
                key = headers["x-stackserve-key"]
                assert headers["x-stackserve-alias"] == "canary"
                assert content == f"{key}@{headers['x-stackserve-adapter-sha256']}"
                seen.add(key)
        headers, _ = await answered(served, "a")
        assert "x-stackserve-alias" not in headers


async def test_an_alias_is_listed_with_its_weights(models: Models) -> None:
    group = with_alias(models.group(members=("a", "b")), {"a": 99, "base": 1}, shadow="b")
    async with running(group) as served:
        _, listed = await served.json("/v1/models")
        assert [each["id"] for each in listed["data"]] == ["base", "a", "b", "canary"]
        for name in ("canary", "g/canary"):
            _, card = await served.json(f"/v1/models/{name}")
            assert card == listed["data"][-1]
        assert (card["members"], card["shadow"]) == ({"a": 99, "base": 1}, "b")
        assert (await served.openai.models.retrieve("canary")).id == "canary"


async def test_the_weights_change_while_the_group_runs(models: Models) -> None:
    group = models.group(members=("a", "b"))
    async with running(with_alias(group, {"a": 1})) as served:
        assert (await answered(served))[0]["x-stackserve-key"] == "a"
        (update,) = await served.update(with_alias(group, {"b": 1}))
        assert "1 aliases changed" in update.sentence
        assert (await answered(served))[0]["x-stackserve-key"] == "b"
        await served.update(group)
        async with served.chat("hi", model="canary") as response:
            assert response.status == 404


async def test_an_alias_without_served_members_is_refused(models: Models) -> None:
    group = models.group(members=("a", "b"), start={"refuses": "b"})
    async with running(with_alias(group, {"b": 1})) as served:
        async with served.chat("hi", model="canary") as response:
            error = (await response.json())["error"]
        assert (response.status, error["code"]) == (404, "model_refused")
        assert "adapter_engine_refused" in error["message"]


async def test_the_shadow_is_asked_too_and_only_the_member_answers(models: Models) -> None:
    async with shadowed(models) as served:
        headers, content = await answered(served)
        assert (headers["x-stackserve-key"], content[:2]) == ("a", "a@")
        await eventually(lambda: counted(served, "ok", 1))
        assert (await arrived(served, "a"), await arrived(served, "b")) == (1, 1)


async def counted(served: Running, outcome: str, wanted: int) -> bool:
    return await shadows(served, outcome) == wanted


async def test_a_copy_of_a_stream_is_asked_for_in_one_piece(models: Models) -> None:
    async with shadowed(models) as served:
        more = {"stream_options": {"include_usage": True}}
        async with served.chat("one two", model="canary", stream=True, **more) as response:
            assert response.content_type == "text/event-stream"
            assert b"[DONE]" in await response.read()
        await eventually(lambda: counted(served, "ok", 1))


async def test_a_shadow_that_fails_changes_nothing_for_the_client(models: Models) -> None:
    async with shadowed(models) as served:
        async with served.chat("refuse", model="canary") as response:
            assert response.status == 400
        await eventually(lambda: counted(served, "failed", 1))


async def test_a_full_group_drops_the_copy_and_not_the_request(models: Models) -> None:
    async with shadowed(models, max_in_flight=1) as served:
        await answered(served)
        assert await shadows(served, "dropped") == 1


async def test_an_answer_does_not_wait_for_its_shadow_and_shadows_are_bounded(
    models: Models,
) -> None:
    async with shadowed(models) as served:
        for _ in range(MOST + 3):
            stream = await served.begun("hang", "canary")
            stream.close()
        await eventually(lambda: counted(served, "dropped", 3))
        assert (await answered(served))[1].startswith("a@")
        await eventually(lambda: served.status().in_flight == MOST)


async def test_a_draining_server_ends_its_shadows(models: Models) -> None:
    async with shadowed(models) as served:
        stream = await served.begun("hang", "canary")
        stream.close()
        await eventually(lambda: served.status().in_flight == 1)
        async with asyncio.timeout(PATIENCE):
            await served.gateway.drained(PATIENCE)
        assert served.status().in_flight == 0
        assert await shadows(served, "dropped") == 1


async def test_a_shadow_ends_with_its_worker(models: Models) -> None:
    async with shadowed(models) as served:
        stream = await served.begun("hang", "canary")
        stream.close()
        await eventually(lambda: served.status().in_flight == 1)
        async with served.chat("die", model="a", stream=True) as response:
            assert b"engine_failed" in await response.read()
        await eventually(lambda: counted(served, "failed", 1))
