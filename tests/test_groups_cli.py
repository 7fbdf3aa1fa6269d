"""The commands on a store, from a folder to a served group and back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stackserve import cli
from tests.conftest import Models
from tests.oci.served import COMPARTMENT, Served, serving_store


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command with --json; what it printed."""

    def run(*words: str) -> Any:
        capsys.readouterr()
        assert cli.main([*words, "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return run


async def test_from_a_folder_to_a_served_group_its_next_version_and_back(
    tmp_path: Path,
    oci_config: dict[str, str],
    models: Models,
    call: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def story() -> None:
        for name, folder in (("b", models.base), *((n, models.adapter(n)) for n in "xyz")):
            assert call("model", "add", str(folder), "--name", name)["name"] == name
        assert {each["kind"] for each in call("model", "list")} == {"base", "adapter"}
        dry = call("group", "create", "one", "--base", "b", "--dry-run", "--member", "k=x")
        assert (dry["wouldBeCreated"], dry["cost"]["slots"]) == (True, 1)
        call("group", "create", "one", "--base", "b", "--member", "k=x", "--member", "l=y")
        call("group", "clone", "one", "--name", "two", "--remove", "k", "--insert", "m=z")
        changes = call("group", "diff", "one", "two")
        assert {each["key"]: each["change"] for each in changes} == {"k": "removed", "m": "added"}
        assert call("deploy", "one")["state"] == "ACTIVE"
        updated = call("update", "one", "two")
        assert updated["group"] == call("group", "show", "two")["id"]
        states = call("status", "one")
        assert {each["inferenceKey"]: each["state"] for each in states} == dict.fromkeys(
            ("base", "l", "m"), "SUCCESS"
        )
        assert call("rollback", "one")["group"] == call("group", "show", "one")["id"]
        call("undeploy", "one")
        assert call("status") == []

    async with serving_store(tmp_path, oci_config) as served:
        monkeypatch.setenv("STACKSERVE_URL", served.url)
        await asyncio.to_thread(story)


async def test_ids_and_addresses_are_printed_whole(
    tmp_path: Path,
    oci_config: dict[str, str],
    models: Models,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "40")

    def printed(*words: str) -> str:
        capsys.readouterr()
        assert cli.main(words) == 0
        return capsys.readouterr().out

    def story(served: Served) -> None:
        base = served.model(models.base, "b")
        deployment = served.deploy(served.group(base, {}))
        assert f"{served.url}/{deployment}\n" in printed("status")
        record = printed("model", "add", str(models.adapter("a")), "--name", "a")
        (identifier,) = (line.split()[1] for line in record.splitlines() if line.startswith("id "))
        assert f"{identifier}  a " in printed("model", "list")

    async with serving_store(tmp_path, oci_config) as served:
        monkeypatch.setenv("STACKSERVE_URL", served.url)
        monkeypatch.setenv("STACKSERVE_COMPARTMENT", COMPARTMENT)
        await asyncio.to_thread(story, served)


async def test_what_cannot_be_done_is_said_in_one_line(
    tmp_path: Path,
    oci_config: dict[str, str],
    models: Models,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refusal(*words: str) -> str:
        capsys.readouterr()
        assert cli.main(words) == cli.FAILED
        return capsys.readouterr().err.strip()

    def story() -> None:
        assert "a folder" in refusal("model", "add", "/nowhere")
        assert "nothing has the name b" in refusal("group", "create", "g", "--base", "b")
        assert "should be KEY=VALUE" in refusal(
            "group", "create", "g", "--base", "b", "--member", "k"
        )
        broken = tmp_path / "broken"
        broken.mkdir()
        (broken / "adapter_config.json").write_text("{")
        assert "(InvalidParameter)" in refusal("model", "add", str(broken))
        assert cli.main(["model", "list"]) == 0
        assert capsys.readouterr().out.strip() == "nothing", "a refused upload leaves no model"

    async with serving_store(tmp_path / "data", oci_config) as served:
        monkeypatch.setenv("STACKSERVE_URL", served.url)
        await asyncio.to_thread(story)
    assert "does not answer" in refusal("status")
