"""A deployment with the fake worker: how it starts, what it does when that goes wrong, how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from stackserve.adapters import validate_adapter
from stackserve.control.deployment import Deployment
from stackserve.control.groups import read_group
from stackserve.errors import GroupNotReady, MemberRefused
from stackserve.routing.snapshot import Routes
from stackserve.settings import GroupSettings
from stackserve.workers import fake
from stackserve.workers.backoff import Verdict, after_death
from tests.conftest import Models
from tests.running import CHAT, PATIENCE, eventually, living, question


class Living:
    """A deployment that runs, and what tests ask of it."""

    def __init__(self, deployment: Deployment, routes: Routes) -> None:
        self.deployment = deployment
        self.routes = routes

    async def until(self, state: str) -> str:
        """Wait for a state; the detail that comes with it."""
        async with asyncio.timeout(PATIENCE):
            while self.deployment.standing.state != state:
                await self.deployment.standing.change.wait()
        return self.deployment.status().detail

    async def answer(self, model: str = "a") -> str:
        """What the worker says to a request for a model."""
        way = self.routes.current.resolve(model)
        body = question("hello", model=way.target.worker_model)
        with way.gate.enter(way.target.worker_model) as endpoint:
            async with endpoint.session.post(CHAT, json=body) as response:
                completion: Any = await response.json()
        return str(completion["choices"][0]["message"]["content"])

    @property
    def pid(self) -> int:
        pid = self.deployment.status().worker_pid
        assert pid is not None
        return pid


@asynccontextmanager
async def deployed(
    group: GroupSettings, judge: Callable[[Sequence[float], float], Verdict] = after_death
) -> AsyncIterator[Living]:
    routes = Routes()
    with tempfile.TemporaryDirectory(prefix="ss-") as folder:
        deployment = Deployment(
            group,
            lambda settings, progress: read_group(settings, Path, validate_adapter, progress),
            routes,
            Path(folder) / "w.sock",
            command=fake.COMMAND,
            judge=judge,
        )
        life = asyncio.create_task(deployment.run())
        try:
            yield Living(deployment, routes)
        finally:
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)
        assert deployment.standing.state == "stopped"


def patient(deaths: Sequence[float], now: float) -> Verdict:
    """After any death, wait for longer than a test does."""
    return Verdict(3600, broken=False)


def twice(deaths: Sequence[float], now: float) -> Verdict:
    """Restart at once, and have enough after two deaths."""
    return Verdict(3600, broken=True) if len(deaths) == 2 else Verdict(0, broken=False)


async def test_becomes_ready_and_answers(models: Models) -> None:
    async with deployed(models.group(members=("a", "b"))) as served:
        with pytest.raises(GroupNotReady):
            served.routes.current.resolve("a")
        await served.until("ready")
        assert await served.answer() == "hello"
        status = served.deployment.status()
    assert (status.served, status.was_ready, status.in_flight) == (3, True, 0)


@pytest.mark.parametrize("update", [{"path": "/nowhere"}, {"path": "/etc/hosts"}])
async def test_a_bad_base_fails_without_a_worker(models: Models, update: dict[str, str]) -> None:
    group = models.group()
    group = group.model_copy(update={"base": group.base.model_copy(update=update)})
    async with deployed(group) as broken:
        assert "(base_missing)" in await broken.until("failed")
        assert broken.deployment.status().worker_pid is None
        with pytest.raises(GroupNotReady):
            broken.deployment.gate.enter("base").__enter__()


async def test_bad_options_fail_with_the_engines_words_and_without_a_retry(models: Models) -> None:
    judged: list[float] = []

    def judge(deaths: Sequence[float], now: float) -> Verdict:
        judged.append(now)
        return patient(deaths, now)

    async with deployed(models.group(start="bad options"), judge) as broken:
        detail = await broken.until("failed")
    assert "unrecognized arguments: --nonsense" in detail
    assert not judged


async def test_a_crash_at_start_is_tried_again_after_a_pause(models: Models) -> None:
    async with deployed(models.group(start="crash"), patient) as broken:
        detail = await broken.until("restarting")
        assert "exit code 1: ValueError: no room for the KV cache" in detail
        assert "next start in 3600 s" in detail
        assert broken.deployment.status().is_loading
        with pytest.raises(GroupNotReady):
            await broken.answer()


async def test_too_many_deaths_fail(models: Models) -> None:
    async with deployed(models.group(start="crash"), twice) as broken:
        assert "no room for the KV cache" in await broken.until("failed")


async def test_a_start_that_takes_too_long_is_given_up(models: Models) -> None:
    group = models.group(start="never", start_timeout_seconds=0.2)
    async with deployed(group, patient) as broken:
        assert "not ready within 0.2 s" in await broken.until("restarting")


async def test_a_worker_that_breaks_the_protocol_is_replaced(models: Models) -> None:
    async with deployed(models.group(start="babble"), patient) as broken:
        assert "not an event" in await broken.until("restarting")


async def test_an_error_in_the_supervision_is_a_failure_that_is_logged(
    models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    group = models.group(start={"refuses": "nobody"})
    async with deployed(group) as broken:
        assert "internal error" in await broken.until("failed")
    assert "its supervision broke" in caplog.text


async def test_a_killed_worker_is_replaced_and_answers_again(models: Models) -> None:
    def at_once(deaths: Sequence[float], now: float) -> Verdict:
        return Verdict(0, broken=False)

    async with deployed(models.group(), at_once) as served:
        await served.until("ready")
        first = served.pid
        os.kill(first, signal.SIGKILL)
        assert "killed by signal 9" in await served.until("restarting")
        await served.until("ready")
        assert served.pid != first
        assert await served.answer() == "hello"


async def test_an_adapter_that_the_engine_refuses_is_not_served_and_the_others_are(
    models: Models,
) -> None:
    async with deployed(models.group(members=("a", "b"), start={"refuses": "b"})) as served:
        await served.until("ready")
        assert await served.answer("a") == "hello"
        with pytest.raises(MemberRefused, match="adapter_engine_refused"):
            await served.answer("b")
        assert [each.key for each in served.deployment.status().refused] == ["b"]


@pytest.mark.parametrize("state", ["starting", "ready"])
async def test_nothing_of_the_worker_remains_after_a_stop(models: Models, state: str) -> None:
    group = models.group(start="never" if state == "starting" else None)
    async with deployed(group) as served:
        await served.until(state)
        await eventually(lambda: served.deployment.status().worker_pid is not None)
        pid = served.pid
        assert living(pid)
    assert not living(pid)
