"""Models that are registered where they lie, and what is let go when no model has it."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import Models
from tests.oci.artifacts import (
    empty,
    facts,
    files_of,
    kept,
    register,
)
from tests.oci.conftest import Story
from tests.oci.served import Served, refused, serving_store
from tests.store.archives import read


async def test_no_folder_is_registered_unless_the_operator_allows_it(
    story: Story, models: Models
) -> None:
    def words(served: Served, base: str, adapter: str) -> None:
        answer = register(served, empty(served), models.base)
        assert (answer.status_code, "server.local_folders" in answer.text) == (400, True)

    await story(words)


@pytest.fixture
def shelf(tmp_path: Path, models: Models) -> Path:
    """A folder of which models may be registered."""
    folder = tmp_path / "shelf"
    shutil.copytree(models.base, folder / "base")
    shutil.copytree(models.adapter("a"), folder / "adapter")
    return folder


async def test_a_registered_base_stays_where_it_is_and_an_adapter_is_copied(
    tmp_path: Path, oci_config: dict[str, str], shelf: Path
) -> None:
    async with serving_store(tmp_path, oci_config, local_folders=(str(shelf),)) as served:

        def words() -> None:
            base, adapter = empty(served), empty(served)
            for model, name in ((base, "base"), (adapter, "adapter")):
                assert register(served, model, shelf / name).status_code == 204
            assert served.client.get_model(base).data.is_model_by_reference is True
            assert served.client.get_model(adapter).data.is_model_by_reference is False
            assert kept(tmp_path) == [facts(served, adapter)["artifactDigest"]]
            shutil.rmtree(shelf / "adapter")
            assert files_of(served, base) == read(shelf / "base")
            served.group(base, {"k": adapter})

        await asyncio.to_thread(words)


async def test_only_what_really_lies_below_an_allowed_folder_is_registered(
    tmp_path: Path, oci_config: dict[str, str], shelf: Path, models: Models
) -> None:
    (shelf / "link").symlink_to(models.base)
    (shelf / "ring").symlink_to(shelf / "ring")
    async with serving_store(tmp_path, oci_config, local_folders=(str(shelf),)) as served:

        def words() -> None:
            model = empty(served)
            for path in (
                shelf / "link",
                shelf / ".." / "shelf2",
                f"{shelf}2",
                models.base,
                shelf / "ring",
                shelf / ("x" * 300),
                shelf / "none",
                shelf / "base" / "config.json",
                f"{shelf}/a\0b",
                "",
            ):
                answer = register(served, model, path)
                assert (answer.status_code, facts(served, model)) == (400, None), path

        await asyncio.to_thread(words)


async def test_a_registered_base_is_used_while_its_bytes_are_the_same(
    tmp_path: Path, oci_config: dict[str, str], shelf: Path
) -> None:
    weights = shelf / "base" / "model.safetensors"
    async with serving_store(tmp_path, oci_config, local_folders=(str(shelf),)) as served:

        def words() -> None:
            base, adapter = empty(served), served.model(shelf / "adapter")
            register(served, base, shelf / "base")
            os.utime(weights, ns=(1, 1))
            served.group(base, {"k": adapter})
            content = weights.read_bytes()
            weights.write_bytes(content[:-1] + b"\1")
            with refused(400, "InvalidParameter", "no longer what was registered"):
                served.group(base, {"k": adapter})
            weights.write_bytes(content)
            served.group(base, {"k": adapter})
            shutil.move(shelf / "base", shelf / "moved")
            with refused(400, "InvalidParameter", "is gone, where a base was registered"):
                served.group(base, {"k": adapter})
            again = empty(served)
            assert register(served, again, shelf / "moved").status_code == 204
            served.group(base, {"k": adapter})

        await asyncio.to_thread(words)


async def test_what_no_model_has_is_let_go_at_the_next_start(
    tmp_path: Path, oci_config: dict[str, str], shelf: Path, models: Models
) -> None:
    wanted: list[str] = []
    async with serving_store(tmp_path, oci_config, local_folders=(str(shelf),)) as served:

        def words() -> None:
            shared = models.adapter("shared")
            base, gone, first, second = (
                empty(served),
                served.model(models.adapter("gone")),
                served.model(shared),
                served.model(shared),
            )
            register(served, base, shelf / "base")
            for model in (base, gone, first):
                served.client.delete_model(model)
            assert len(kept(tmp_path)) == 2
            wanted.append(second)

        await asyncio.to_thread(words)
    async with serving_store(tmp_path, oci_config, local_folders=(str(shelf),)) as served:

        def more() -> None:
            assert kept(tmp_path) == [facts(served, wanted[0])["artifactDigest"]]
            assert files_of(served, wanted[0]) == read(models.adapter("shared"))
            assert (shelf / "base" / "config.json").is_file()
            again = served.model(models.adapter("gone"))
            assert files_of(served, again) == read(models.adapter("gone"))

        await asyncio.to_thread(more)
