"""Updates while clients ask without a pause: nothing fails, and no answer is of two versions.

STACKSERVE_UPDATES sets how often the group is changed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from pathlib import Path

import aiohttp
import pytest
from oci.data_science.models import CustomMetadata

from tests.conftest import Models
from tests.oci.served import Served, serving_store

UPDATES = int(os.environ.get("STACKSERVE_UPDATES", "12"))
CLIENTS = 8


class Load:
    """Clients that ask `k` who it is, in streams and in whole answers, until they are told to stop."""

    def __init__(self, url: str) -> None:
        self.stop = asyncio.Event()
        self.asked = 0
        self.heard: set[str] = set()
        self._url = url

    async def run(self, number: int) -> None:
        async with aiohttp.ClientSession() as http:
            while not self.stop.is_set():
                body = {"model": "k", "messages": [{"role": "user", "content": "whoami"}]}
                asking = http.post(self._url, json={**body, "stream": number % 2 == 0})
                async with asking as answer:
                    text = await answer.text()
                    assert answer.status == 200, text
                    digest = answer.headers["x-stackserve-adapter-sha256"]
                self.asked += 1
                self.heard.add(digest)
                assert f"k@{digest}" in text, "the header names the weights that answered"
                assert "error" not in text


def prepare(served: Served, models: Models) -> tuple[list[str], str]:
    base = served.model(models.base)
    groups = [served.group(base, {"k": served.model(models.adapter(name))}) for name in "ab"]
    return groups, served.deploy(groups[0])


@pytest.mark.timeout(60 + 5 * UPDATES)
@pytest.mark.parametrize("kind", ["LIVE", "ZDT"])
async def test_no_request_fails_while_the_group_changes(
    tmp_path: Path, oci_config: dict[str, str], models: Models, kind: str
) -> None:
    updates = UPDATES if kind == "LIVE" else max(2, UPDATES // 6)
    async with serving_store(tmp_path, oci_config) as served:
        groups, deployment = await asyncio.to_thread(prepare, served, models)
        load = Load(f"{served.url}/{deployment}/predict")
        clients = [asyncio.create_task(load.run(number)) for number in range(CLIENTS)]
        for group in itertools.islice(itertools.cycle(reversed(groups)), updates):
            assert await asyncio.to_thread(served.update, deployment, group, kind) == "SUCCEEDED"
        load.stop.set()
        await asyncio.gather(*clients)
    assert load.asked > updates
    assert len(load.heard) == 2, "both versions have answered"


async def test_an_update_whose_adapter_fails_its_probe_changes_nothing(
    tmp_path: Path, oci_config: dict[str, str], models: Models
) -> None:
    options = json.dumps({"vllm_args": {"fake_start": {"probe": "bad"}}})
    engine = [CustomMetadata(key="stackserve.engine", value=options)]
    async with serving_store(tmp_path, oci_config) as served:

        def story() -> None:
            base, a, b = (
                served.model(folder)
                for folder in (models.base, models.adapter("a"), models.adapter("b"))
            )
            good, bad = (
                served.group(base, adapters, custom_metadata_list=engine)
                for adapters in ({"k": a}, {"k": b, "bad": a})
            )
            deployment = served.deploy(good)
            before = served.ask(deployment, "k").data
            assert served.update(deployment, bad) == "FAILED"
            assert served.ask(deployment, "k").data == before
            got = served.client.get_model_deployment(deployment).data
            assert got.lifecycle_state == "ACTIVE"
            wanted = got.model_deployment_configuration_details.model_group_configuration_details
            assert wanted.model_group_id == good
            work = served.client.list_work_requests(
                got.compartment_id, resource_id=deployment, status="FAILED"
            ).data[0]
            (error,) = served.client.list_work_request_errors(work.id).data
            assert error.message == "bad: it answers NaN"

        await asyncio.to_thread(story)
