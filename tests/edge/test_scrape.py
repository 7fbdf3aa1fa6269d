"""`/metrics` of a gateway with workers: theirs beside its own, and its own whatever becomes of them."""

from __future__ import annotations

import asyncio

import pytest

from stackserve.edge import scrape
from stackserve.workers.fake import ADAPTER_BYTES, SLOTS
from tests.conftest import Models
from tests.edge.prometheus import Metrics
from tests.running import Running, eventually, running


@pytest.fixture(autouse=True)
def always_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "FRESH_SECONDS", 0)


async def scraped(gateway: Running) -> Metrics:
    return Metrics(await gateway.text("/metrics"))


async def ask(gateway: Running, words: str, model: str) -> None:
    async with gateway.chat(words, model=model) as answer:
        await answer.read()


async def test_shows_what_each_engine_counts_by_group_and_key(models: Models) -> None:
    h = models.group("h", ("d",), key="base-h")
    async with running(models.group("g", ("a", "b", "c")), h) as gateway:
        await ask(gateway, "one two three", "a")
        await ask(gateway, "one two", "base-h")
        shown = await scraped(gateway)
    of_a = {"group": "g", "key": "a"}
    assert shown("stackserve_engine_generated_tokens_total", **of_a) == 3
    assert shown("stackserve_engine_requests_total", outcome="stop", **of_a) == 1
    assert (
        shown("stackserve_requests_total", route="/v1/chat/completions", outcome="ok", **of_a) == 1
    )
    assert shown("stackserve_engine_prompt_tokens_total", group="h", key="base-h") == 2
    assert shown("stackserve_adapters", group="g", tier="device") == SLOTS
    assert shown("stackserve_adapter_bytes", group="g", tier="host") == ADAPTER_BYTES
    infos = {each["group"]: each for each in shown.labels("vllm:lora_requests_info")}
    assert infos["g"]["running_lora_adapters"] == "a,b"
    assert infos["h"]["running_lora_adapters"] == "d"
    assert shown("stackserve_worker_scrape_failures_total", group="g") == 0


async def test_shows_what_runs_now(models: Models) -> None:
    async with running(models.group(members=("a", "b"))) as gateway:
        stream = await gateway.begun("hang", model="b")
        shown = await scraped(gateway)
        assert shown("stackserve_engine_requests_running", group="g", key="b") == 1
        assert shown("stackserve_engine_requests_running", group="g", key="a") == 0
        stream.close()
        aborted = {"group": "g", "key": "b", "outcome": "abort"}

        async def counted() -> bool:
            shown = await scraped(gateway)
            return aborted in shown.labels("stackserve_engine_requests_total")

        await eventually(counted)


@pytest.mark.parametrize("fault", ["silence", "nonsense"])
async def test_a_worker_that_does_not_answer_is_counted_and_holds_nobody_up(
    models: Models, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(scrape, "ANSWER_SECONDS", 0.2)
    broken = models.group("broken", ("b",), key="base-b", start={"adapters": fault})
    async with running(models.group(), broken) as gateway:
        shown = await scraped(gateway)
        assert shown("stackserve_worker_scrape_failures_total", group="broken") == 1
        assert shown("stackserve_worker_scrape_failures_total", group="g") == 0
        groups = {each["group"] for each in shown.labels("stackserve_engine_arrivals_total")}
        assert groups == {"g"}
        assert shown("stackserve_group_ready", group="broken") == 1


async def test_an_engine_that_counts_nothing_is_no_failure(models: Models) -> None:
    async with running(models.group(start={"adapters": "none"})) as gateway:
        shown = await scraped(gateway)
    assert shown("stackserve_worker_scrape_failures_total", group="g") == 0
    assert not shown.labels("stackserve_engine_arrivals_total")


async def test_a_group_without_a_worker_is_not_asked(models: Models) -> None:
    async with running(models.group(start="never"), until=None) as gateway:
        await gateway.until("starting")
        shown = await scraped(gateway)
    assert shown("stackserve_group_ready", group="g") == 0
    assert not shown.labels("stackserve_worker_scrape_failures_total")


async def test_a_worker_that_dies_takes_its_numbers_along(models: Models) -> None:
    async with running(models.group()) as gateway:
        await ask(gateway, "one", "a")
        stream = await gateway.begun("die")
        await gateway.until("restarting")
        assert not (await scraped(gateway)).labels("stackserve_engine_arrivals_total")
        await gateway.until("ready")
        shown = await scraped(gateway)
        stream.close()
    assert shown("stackserve_engine_arrivals_total", group="g", key="a") == 0


async def test_an_engine_is_asked_once_however_many_scrape_at_once(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrape, "FRESH_SECONDS", 60)
    async with running(models.group()) as gateway:
        before = await asyncio.gather(*(scraped(gateway) for _ in range(5)))
        await ask(gateway, "one", "a")
        await eventually(
            lambda: not gateway.status().in_flight
        )  # it is counted after its last byte
        after = await scraped(gateway)
    arrivals = [each("stackserve_engine_arrivals_total", group="g", key="a") for each in before]
    assert arrivals == [0] * 5
    assert after("stackserve_engine_arrivals_total", group="g", key="a") == 0
    assert after("stackserve_requests_total", group="g", key="a", outcome="ok",
                 route="/v1/chat/completions") == 1  # fmt: skip
