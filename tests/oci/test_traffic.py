"""Aliases are part of a group: they go live with its weights, and come back with them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import oci
import pytest
from oci.data_science import models as m

from tests.conftest import Models
from tests.oci.served import Served, serving_store


def policy(**aliases: Any) -> dict[str, Any]:
    """What makes a group's aliases these."""
    value = json.dumps({"aliases": aliases})
    return {"custom_metadata_list": [m.CustomMetadata(key="stackserve.traffic", value=value)]}


def asked(served: Served, deployment: str) -> tuple[str, str]:
    """The alias and the key that answered a request to `canary`."""
    headers = served.ask(deployment, "canary").headers
    return headers["x-stackserve-alias"], headers["x-stackserve-key"]


async def test_an_alias_goes_live_with_its_group_and_a_rollback_brings_the_former_one_back(
    tmp_path: Path, oci_config: dict[str, str], models: Models
) -> None:
    async with serving_store(tmp_path, oci_config) as served:

        def story() -> None:
            base = served.model(models.base)
            adapters = {key: served.model(models.adapter(key)) for key in ("a", "b")}
            first = served.group(base, adapters, **policy(canary={"members": {"a": 1}}))
            second = served.group(
                base, adapters, **policy(canary={"members": {"b": 1}, "shadow": "base"})
            )
            deployment = served.deploy(first)
            assert asked(served, deployment) == ("canary", "a")
            assert served.update(deployment, second) == "SUCCEEDED"
            assert asked(served, deployment) == ("canary", "b")
            assert served.update(deployment, first, "ZDT") == "SUCCEEDED"
            assert asked(served, deployment) == ("canary", "a")
            path = f"/20190101/modelDeployments/{deployment}/actions/rollback"
            work = httpx.post(served.url + path)
            served.done(oci.Response(work.status_code, work.headers, None, None))
            assert asked(served, deployment) == ("canary", "b")
            listed = httpx.get(f"{served.url}/{deployment}/predict/v1/models").json()["data"]
            assert [each["id"] for each in listed] == ["base", "a", "b", "canary"]

        await asyncio.to_thread(story)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"a": {"members": {"a": 1}}}, "aliases.a is the key of a member"),
    ({"x": {"members": {"z": 1}}}, "no member of the group has the key z"),
    ({"x": {"members": {"a": 1}, "shadow": "z"}}, "no member of the group has the key z"),
    ({"x": {"members": {"y": 1}}, "y": {"members": {"a": 1}}}, "no member of the group has the key y"),
    ({"x": {"members": {"a": 0}}}, "greater than 0"),
    ({"x": {"members": {}}}, "at least 1 item"),
    ({"x": {"members": {f"k{n}": 1 for n in range(33)}}}, "at most 32 items"),
]  # fmt: skip


async def test_a_group_with_a_wrong_alias_is_refused_when_it_is_made(
    tmp_path: Path, oci_config: dict[str, str], models: Models
) -> None:
    async with serving_store(tmp_path, oci_config) as served:

        def story() -> None:
            base, adapter = served.model(models.base), served.model(models.adapter("a"))
            for aliases, words in WRONG:
                with pytest.raises(oci.exceptions.ServiceError) as caught:
                    served.group(base, {"a": adapter}, **policy(**aliases))
                assert (caught.value.status, caught.value.code) == (400, "InvalidParameter")
                assert words in caught.value.message

        await asyncio.to_thread(story)
