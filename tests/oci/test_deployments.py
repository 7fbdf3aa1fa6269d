"""Deployments of stacked groups through the official client, on fake workers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import oci
import pytest
from oci.data_science import models as m

from tests.conftest import Models
from tests.oci.conftest import COMPARTMENT
from tests.oci.served import serving_store


async def test_a_group_is_deployed_asked_updated_live_and_rolled_back(
    tmp_path: Path, oci_config: dict[str, str], models: Models
) -> None:
    async with serving_store(tmp_path, oci_config) as served:

        def story() -> None:
            base, a, b = (
                served.model(f) for f in (models.base, models.adapter("a"), models.adapter("b"))
            )
            first = served.group(base, {"x": a})
            second = served.group(base, {"x": b, "y": a})
            deployment = served.deploy(first)
            got = served.client.get_model_deployment(deployment).data
            assert (got.lifecycle_state, got.lifecycle_details[:7]) == ("ACTIVE", "answers")
            assert got.model_deployment_url == f"{served.url}/{deployment}"
            assert served.update(deployment, second) == "SUCCEEDED"
            states = served.client.list_model_deployment_model_states(deployment, COMPARTMENT).data
            assert {state.inference_key: state.state for state in states} == dict.fromkeys(
                ("base", "x", "y"), "SUCCESS"
            )
            with pytest.raises(oci.exceptions.ServiceError, match="kept for a rollback"):
                served.client.delete_model_group(first)

        await asyncio.to_thread(story)
        assert [status.served for status in served.gateway.statuses()] == [3]


async def test_what_is_deployed_comes_back_with_the_server(
    tmp_path: Path, oci_config: dict[str, str], models: Models
) -> None:
    async with serving_store(tmp_path, oci_config) as served:
        base = await asyncio.to_thread(served.model, models.base)
        group = await asyncio.to_thread(served.group, base, {})
        deployment = await asyncio.to_thread(served.deploy, group)
    async with serving_store(tmp_path, oci_config) as served:
        while not any(status.state == "ready" for status in served.gateway.statuses()):
            await served.gateway.changed()
        got = await asyncio.to_thread(served.client.get_model_deployment, deployment)
        assert got.data.model_deployment_url == f"{served.url}/{deployment}"


async def test_a_deployment_is_deactivated_activated_and_deleted(
    tmp_path: Path, oci_config: dict[str, str], models: Models
) -> None:
    async with serving_store(tmp_path, oci_config) as served:

        def story() -> None:
            base = served.model(models.base)
            deployment = served.deploy(served.group(base, {"a": served.model(models.adapter("a"))}))
            assert served.done(served.client.deactivate_model_deployment(deployment)) == "SUCCEEDED"
            state = served.client.get_model_deployment(deployment).data.lifecycle_state
            assert (state, served.gateway.statuses()) == ("INACTIVE", [])
            assert served.done(served.client.activate_model_deployment(deployment)) == "SUCCEEDED"
            assert served.client.get_model_deployment(deployment).data.lifecycle_state == "ACTIVE"
            assert served.done(served.client.delete_model_deployment(deployment)) == "SUCCEEDED"
            with pytest.raises(oci.exceptions.ServiceError) as caught:
                served.client.get_model_deployment(deployment)
            assert caught.value.status == 404

        await asyncio.to_thread(story)


async def test_another_engine_takes_over_without_downtime(
    tmp_path: Path, oci_config: dict[str, str], models: Models
) -> None:
    async with serving_store(tmp_path, oci_config) as served:

        def story() -> None:
            base = served.model(models.base)
            first = served.group(base, {"a": served.model(models.adapter("a"))})
            second = served.group(base, {"b": served.model(models.adapter("b"))})
            deployment = served.deploy(first)
            before = served.gateway.statuses()[0].worker_pid
            assert served.update(deployment, second, "ZDT") == "SUCCEEDED"
            assert served.gateway.statuses()[0].worker_pid != before
            got = served.client.get_model_deployment(deployment).data
            assert got.lifecycle_state == "ACTIVE"

        await asyncio.to_thread(story)


async def test_an_engine_that_does_not_start_makes_the_deployment_fail_with_its_reason(
    tmp_path: Path, oci_config: dict[str, str], models: Models
) -> None:
    async with serving_store(tmp_path, oci_config) as served:

        def story() -> None:
            metadata = m.CustomMetadata(
                key="stackserve.engine", value='{"vllm_args": {"fake_start": "bad options"}}'
            )
            base = served.model(models.base)
            group = served.group(base, {}, custom_metadata_list=[metadata])
            deployment = served.deploy(group)
            got = served.client.get_model_deployment(deployment).data
            assert got.lifecycle_state == "FAILED"
            assert got.lifecycle_details

        await asyncio.to_thread(story)
