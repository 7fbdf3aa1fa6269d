"""A control plane on a real server, and the official client of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import oci
import pytest
import uvicorn
from fastapi import FastAPI
from oci.data_science import DataScienceClient

from stackserve.oci.api import PREFIX, build_api
from stackserve.oci.projects import project_routes
from stackserve.oci.work_requests import work_request_routes
from stackserve.store.database import Database

COMPARTMENT = "ocid1.compartment.oc1..comp"


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
