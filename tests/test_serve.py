"""SIGHUP: the file is read again, and what it says now holds; a closed terminal is something else."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from stackserve import serve
from stackserve.app import Stop
from stackserve.configfile import load_settings
from stackserve.serve import hear_hangups, update_when_asked
from stackserve.settings import GroupSettings, Settings
from tests.conftest import Models
from tests.running import Running, eventually, running


def write(file: Path, *groups: GroupSettings) -> None:
    settings = [group.model_dump(mode="json", exclude_unset=True) for group in groups]
    file.write_text(json.dumps({"groups": settings}))


@asynccontextmanager
async def following(file: Path, group: GroupSettings) -> AsyncIterator[Running]:
    """A gateway that serves a group and follows a file."""
    async with running(group) as gateway:
        load = partial(load_settings, file)
        updating = asyncio.create_task(
            update_when_asked(gateway.gateway, load, hear_hangups(Stop()))
        )
        try:
            yield gateway
        finally:
            updating.cancel()
            await asyncio.gather(updating, return_exceptions=True)


def hang_up() -> None:
    os.kill(os.getpid(), signal.SIGHUP)


async def test_the_file_is_read_again(models: Models, tmp_path: Path) -> None:
    file, before = tmp_path / "f.yaml", models.group(members=("a",))
    async with following(file, before) as gateway:
        write(file, models.group(members=("a", "b")))
        hang_up()
        await eventually(lambda: gateway.status().served == 3)
        write(file, models.group(members=("b",)))
        hang_up()
        await eventually(lambda: gateway.status().served == 2)
        async with gateway.chat("hello", model="b") as response:
            assert response.status == 200


async def test_a_mistake_changes_nothing_and_is_told_by_line(
    models: Models, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, group = tmp_path / "f.yaml", models.group(members=("a",))
    async with following(file, group) as gateway:
        version = gateway.status().version
        file.write_text("groups:\n- name: g\n  base: {path: here}\n  member: []\n")
        hang_up()
        await eventually(lambda: "member: unknown key" in caplog.text)
        assert f"{file}:4: groups.0.member: unknown key; did you mean members?" in caplog.text
        assert gateway.status().version == version
        write(file, models.group(members=("b",)))
        hang_up()
        await eventually(lambda: gateway.status().version != version)


async def test_of_two_hangups_in_a_row_the_last_file_holds(models: Models, tmp_path: Path) -> None:
    file, group = tmp_path / "f.yaml", models.group(members=("a",))
    async with following(file, group) as gateway:
        write(file, models.group(members=("b",)))
        hang_up()
        write(file, models.group(members=("c", "d")))
        hang_up()
        await eventually(lambda: gateway.status().served == 3)
        async with gateway.chat("hello", model="d") as response:
            assert response.status == 200


async def test_an_error_in_an_update_is_logged_and_the_next_one_works(
    models: Models, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, group = tmp_path / "f.yaml", models.group(members=("a",))
    async with running(group) as gateway:
        asked = asyncio.Event()

        def load() -> Settings:
            if not file.exists():
                raise RuntimeError
            return load_settings(file)

        updating = asyncio.create_task(update_when_asked(gateway.gateway, load, asked))
        asked.set()
        await eventually(lambda: "the update broke" in caplog.text)
        write(file, models.group(members=("a", "b")))
        asked.set()
        await eventually(lambda: gateway.status().served == 3)
        updating.cancel()
        await asyncio.gather(updating, return_exceptions=True)


@pytest.mark.parametrize(
    ("terminal", "ignored", "stops"),
    [("closes", False, True), ("stays", False, False), ("none", False, False), ("closes", True, False)],
)  # fmt: skip
async def test_a_terminal_that_closes_stops_the_server_unless_hangups_were_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, terminal: str, ignored: bool, stops: bool
) -> None:
    there = tmp_path / "tty"
    monkeypatch.setattr(serve, "TERMINAL", str(there))
    if terminal != "none":
        there.touch()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        stop = Stop()
        asked = hear_hangups(stop)
        if terminal == "closes":
            there.unlink()
        hang_up()
        await (stop.first if stops else asked).wait()
        assert (stop.first.is_set(), asked.is_set()) == (stops, not stops)
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, before)
