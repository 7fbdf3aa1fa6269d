"""A gateway over a store with fake workers, in a process of its own to be killed: DATA PORT_FILE."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from stackserve.adapters import validate_source
from stackserve.app import open_gateway
from stackserve.control.storefront import open_store
from stackserve.server_settings import ServerSettings
from stackserve.settings import Settings
from stackserve.workers import fake


async def main() -> None:
    data, told = Path(sys.argv[1]), Path(sys.argv[2])
    settings = Settings(server=ServerSettings(port=0, store=True), groups=())
    with open_store(settings.server, data) as store:
        opening = open_gateway(settings, Path, validate_source, fake.COMMAND, store)
        async with opening as gateway:
            written = told.with_suffix(".new")
            written.write_text(str(gateway.port))
            written.rename(told)
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
