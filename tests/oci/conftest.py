"""A control plane on a real server, and the official client of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import oci
import pytest
import uvicorn
from fastapi import FastAPI
from oci.data_science import DataScienceClient

from stackserve.oci.api import PREFIX, build_api
from stackserve.oci.projects import project_routes
from stackserve.oci.work_requests import work_request_routes
from stackserve.store.database import Database
from tests.conftest import Models
from tests.oci.served import COMPARTMENT as COMPARTMENT
from tests.oci.served import Served, serving_store

Words = Callable[[Served, str, str], None]
"""What happens in a store with a base and an adapter, whose ids are given."""
Story = Callable[[Words], Awaitable[None]]


@dataclass(frozen=True)
class ControlPlane:
    """A running control plane; `client` is the official one."""

    url: str
    client: DataScienceClient
    database: Database


@pytest.fixture
def plane(database: Database, oci_config: dict[str, str]) -> Iterator[ControlPlane]:
    app = FastAPI()
    app.mount(PREFIX, build_api([project_routes(database), work_request_routes(database)]))
    with serving(app) as url:
        client = DataScienceClient(
            oci_config, service_endpoint=url, retry_strategy=oci.retry.NoneRetryStrategy()
        )
        yield ControlPlane(url, client, database)


@pytest.fixture
def story(tmp_path: Path, oci_config: dict[str, str], models: Models, database_url: str) -> Story:
    """Tells what happens in a store with a base and an adapter, on either database."""

    async def tell(words: Words) -> None:
        async with serving_store(tmp_path, oci_config, database=database_url) as served:

            def told() -> None:
                words(served, served.model(models.base), served.model(models.adapter("a")))

            await asyncio.to_thread(told)

    return tell


class serving:  # a context manager
    """A server in a thread, for clients that block."""

    def __init__(self, app: FastAPI) -> None:
        config = uvicorn.Config(app, port=0, log_level="warning", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> str:
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.005)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
