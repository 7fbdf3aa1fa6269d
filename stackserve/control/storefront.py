"""The store of a running gateway: its database, its artifacts, and the right to run its deployments."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from stackserve.catalog.artifacts import Shelf
from stackserve.catalog.deployments import begin_again
from stackserve.errors import ConfigError
from stackserve.files import locked
from stackserve.server_settings import ServerSettings
from stackserve.store.artifacts import ArtifactStore
from stackserve.store.database import Database, open_database

logger = logging.getLogger(__name__)

DATABASE, ARTIFACTS = "stackserve.db", "artifacts"


@dataclass(frozen=True)
class Store:
    """What the control plane keeps, open."""

    database: Database
    shelf: Shelf


@contextmanager
def open_store(server: ServerSettings, default: Path) -> Iterator[Store]:
    """Open the store in its folder, for the one server of this name.

    Raises ConfigError when the database cannot be opened, or another server has the name.
    """
    data = Path(server.data).expanduser() if server.data else default
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {data} cannot be made: {error.strerror}") from None
    database = open_database(server.database or f"sqlite:///{data / DATABASE}")
    try:
        with _only_gateway(database, server.gateway, data):
            database.transact(lambda session: begin_again(session, server.gateway))
            folders = [Path(folder).expanduser() for folder in server.local_folders]
            shelf = Shelf(ArtifactStore(data / ARTIFACTS), folders)
            if freed := shelf.collect(database):
                logger.info("%d bytes of artifacts that nothing refers to were removed", freed)
            yield Store(database, shelf)
    finally:
        database.close()


@contextmanager
def _only_gateway(database: Database, name: str, data: Path) -> Iterator[None]:
    """Hold the name among the servers that share the database, until the end of this process at most."""
    taken = ConfigError(
        f"another server named {name} runs on this store; stop it, or give this one another name "
        "(server.gateway)"
    )
    if database.dialect == "postgresql":
        with database.held() as connection:
            query = text(
                "SELECT pg_try_advisory_lock(hashtext('stackserve gateway'), hashtext(:name))"
            )
            if not connection.scalar(query, {"name": name}):
                raise taken
            yield
        return
    with ExitStack() as held:
        try:
            lock = data / f".gateway-{name}.lock"
            held.enter_context(locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB))
        except BlockingIOError:
            raise taken from None
        yield
