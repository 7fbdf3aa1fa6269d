"""A gateway in the test's own process with fake workers, and what tests ask of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
from openai import AsyncOpenAI

from stackserve.adapters import validate_source
from stackserve.app import Gateway, open_gateway
from stackserve.control.reload import GroupUpdate
from stackserve.control.states import DeploymentStatus
from stackserve.server_settings import ServerSettings
from stackserve.settings import GroupSettings, Settings
from stackserve.workers import fake

CHAT = "/v1/chat/completions"
PATIENCE = 10.0
"""Seconds after which a test gives up; far more than anything here takes."""


@dataclass(frozen=True)
class Running:
    """A running gateway and two clients of it."""

    gateway: Gateway
    url: str
    http: aiohttp.ClientSession
    openai: AsyncOpenAI
    sockets: Path
    server: ServerSettings

    def status(self, group: str = "g") -> DeploymentStatus:
        return next(status for status in self.gateway.statuses() if status.group == group)

    async def until(self, state: str, group: str = "g") -> DeploymentStatus:
        """Wait until a group is in a state; how it then is."""
        async with asyncio.timeout(PATIENCE):
            while self.status(group).state != state:
                await self.gateway.changed()
        return self.status(group)

    def chat(self, words: str, *, model: str = "a", stream: bool = False, **more: Any) -> Any:
        """A chat request, as a context manager; `words` are an order to the fake worker."""
        return self.http.post(CHAT, json=question(words, model=model, stream=stream, **more))

    async def begun(self, words: str, model: str = "a") -> aiohttp.ClientResponse:
        """A stream whose first event has arrived."""
        response: aiohttp.ClientResponse = await self.chat(words, model=model, stream=True)
        await response.content.readany()
        return response

    async def text(self, path: str) -> str:
        async with self.http.get(path) as response:
            return await response.text()

    async def json(self, path: str) -> tuple[int, Any]:
        async with self.http.get(path) as response:
            return response.status, await response.json()

    async def update(self, *groups: GroupSettings) -> list[GroupUpdate]:
        """As SIGHUP does when the file now has these groups."""
        settings = Settings(server=self.server, groups=groups)
        return await self.gateway.update(lambda: settings)

    async def in_worker(self, number: int = 0) -> int:
        """How many requests a worker works on, by its own count."""
        return int(await self.ask_worker("/running", number))

    async def ask_worker(self, path: str, number: int = 0) -> Any:
        """What a worker tells of itself."""
        async with self._to_worker(number) as session, session.get(path) as response:
            return await response.json()

    async def release_worker(self) -> None:
        """Have the worker answer what it was ordered to wait with, see workers/fake_adapters.py."""
        async with self._to_worker(0) as session, session.post("/go") as response:
            response.raise_for_status()

    def _to_worker(self, number: int) -> aiohttp.ClientSession:
        (socket,) = self.sockets.glob(f"stackserve-*/{number}.sock")
        connector = aiohttp.UnixConnector(str(socket))
        return aiohttp.ClientSession("http://worker", connector=connector)


def question(words: str, *, model: str = "a", stream: bool = False, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": words}]
    return {"model": model, "messages": messages, "stream": stream, **more}


@asynccontextmanager
async def running(
    *groups: GroupSettings,
    until: str | None = "ready",
    locate: Callable[[str], Path] = Path,
    **server: Any,
) -> AsyncIterator[Running]:
    """Serve groups with fake workers; begins when all of them are in the state `until`, if given."""
    settings = Settings(server=ServerSettings(port=0, **server), groups=groups)
    with tempfile.TemporaryDirectory(prefix="ss-") as sockets:
        async with AsyncExitStack() as stack:
            with mock.patch.object(tempfile, "tempdir", sockets):
                opening = open_gateway(settings, locate, validate_source, fake.COMMAND)
                gateway = await stack.enter_async_context(opening)
            url = f"http://127.0.0.1:{gateway.port}"
            openai = AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
            http = await stack.enter_async_context(aiohttp.ClientSession(url))
            await stack.enter_async_context(openai)
            served = Running(gateway, url, http, openai, Path(sockets), settings.server)
            for group in groups if until else ():
                await served.until(until, group.name)
            yield served
        assert not os.listdir(sockets), "a stopped gateway leaves nothing"


async def eventually(holds: Callable[[], Awaitable[bool] | bool], seconds: float = 5.0) -> None:
    """Wait for something that is announced by no event, such as a process's end."""
    async with asyncio.timeout(seconds):
        while True:
            held = holds()
            if held if isinstance(held, bool) else await held:
                return
            await asyncio.sleep(0.01)


def living(process_group: int) -> list[int]:
    """The processes of a group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended while we looked
            state, _, group, *_ = stat.read_text().rpartition(")")[2].split()
            if int(group) == process_group and state not in "ZX":
                found.append(int(stat.parent.name))
    return found


def cpu_seconds(pid: int) -> float:
    """How long a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
