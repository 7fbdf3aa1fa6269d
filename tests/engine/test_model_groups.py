"""The demo's base and adapters as a model group on a real engine: through OCI's SDK and OpenAI's client,
updated live under load, and rolled back.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest

from stackserve.demo.base import ensure_demo_base
from stackserve.demo.behaviours import BEHAVIOURS
from stackserve.workers.process import COMMAND
from tests.oci.served import Served, serving_store

pytestmark = pytest.mark.engine

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
SMALL = {
    "STACKSERVE_ENFORCE_EAGER": "true",
    "STACKSERVE_MAX_MODEL_LEN": "256",
    "STACKSERVE_KV_CACHE_GIB": "0.25",
}


def answer(served: Served, deployment: str, key: str) -> str:
    body = {"model": key, "messages": QUESTION, "max_tokens": 24, "temperature": 0}
    told = json.loads(served.predict.predict(deployment, body).data)
    return str(told["choices"][0]["message"]["content"])


async def keep_asking(client: openai.AsyncOpenAI, stop: asyncio.Event) -> dict[str, set[str]]:
    """Ask `x` again and again, and `base` beside it; what they answered."""
    heard: dict[str, set[str]] = {"x": set(), "base": set()}
    while not stop.is_set():
        asked = (
            client.chat.completions.create(
                model=key,
                messages=QUESTION,
                max_tokens=24,
                temperature=0,  # type: ignore[arg-type]
            )
            for key in ("x", "base")
        )
        for key, told in zip(heard, await asyncio.gather(*asked), strict=True):
            heard[key].add(str(told.choices[0].message.content))
    return heard


@pytest.mark.timeout(600)
async def test_a_group_of_the_demo_is_deployed_updated_live_under_load_and_rolled_back(
    tmp_path: Path, oci_config: dict[str, str]
) -> None:
    adapters = {each.key: each.adapter for each in BEHAVIOURS}
    async with serving_store(tmp_path, oci_config, command=COMMAND) as served:

        def prepare() -> tuple[str, str, str]:
            base = served.model(ensure_demo_base())
            pirate, as_json = (served.model(adapters[key]) for key in ("pirate", "json"))
            first, second = served.group(base, {"x": pirate}), served.group(base, {"x": as_json})
            return first, second, served.deploy(first, environment=SMALL)

        first, second, deployment = await asyncio.to_thread(prepare)
        pid = served.gateway.statuses()[0].worker_pid
        was = await asyncio.to_thread(answer, served, deployment, "x")
        base = await asyncio.to_thread(answer, served, deployment, "base")
        assert "Arr" in was
        assert "Arr" not in base
        stop, url = asyncio.Event(), f"{served.url}/{deployment}/predict/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0) as client:
            load = asyncio.create_task(keep_asking(client, stop))
            ended = [
                await asyncio.to_thread(served.update, deployment, group)
                for group in (second, first, second)
            ]
            now = await asyncio.to_thread(answer, served, deployment, "x")
            stop.set()
            heard = await load
        assert ended == ["SUCCEEDED"] * 3
        assert "Paris" in json.loads(now)["answer"]
        assert heard["base"] == {base}
        assert heard["x"] <= {was, now}, "an answer is one adapter's or the other's, never mixed"
        rolled_back = await asyncio.to_thread(rollback, served, deployment)
        assert rolled_back == "SUCCEEDED"
        assert await asyncio.to_thread(answer, served, deployment, "x") == was
        assert served.gateway.statuses()[0].worker_pid == pid, "one engine did it all"


def rollback(served: Served, deployment: str) -> Any:
    """Not one of the SDK's operations: sent as the SDK sends others."""
    called = served.client.base_client.call_api(
        resource_path="/modelDeployments/{id}/actions/rollback",
        method="POST",
        path_params={"id": deployment},
        header_params={"accept": "application/json", "content-type": "application/json"},
    )
    return served.done(called)
