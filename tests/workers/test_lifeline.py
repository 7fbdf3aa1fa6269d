"""The gateway is killed without a chance to clean up: its workers and their children die with it."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from tests.conftest import Models
from tests.running import eventually, living

GATEWAY = """
import asyncio, sys
from pathlib import Path
from stackserve.adapters import validate_adapter
from stackserve.app import open_gateway
from stackserve.settings import Settings
from stackserve.workers import fake

async def main():
    settings = Settings.model_validate_json(sys.argv[1])
    async with open_gateway(settings, Path, validate_adapter, fake.COMMAND) as gateway:
        while gateway.statuses()[0].state != "ready":
            await gateway.changed()
        print(gateway.statuses()[0].worker_pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_killed_gateway_takes_its_worker_and_the_workers_children_along(
    models: Models,
) -> None:
    groups = models.group(start="deaf").model_dump_json()
    settings = f'{{"server": {{"port": 0}}, "groups": [{groups}]}}'
    command = (sys.executable, "-c", GATEWAY, settings)
    gateway = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert gateway.stdout is not None
        pid = int(await gateway.stdout.readline())
        assert len(living(pid)) == 2
    finally:
        gateway.kill()
    await eventually(lambda: not living(pid))
    await gateway.wait()
