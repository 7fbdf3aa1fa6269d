"""The database: opened, brought to the newest schema, and read or written in transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from stackserve.errors import ConfigError

BUSY_SECONDS = 30
"""How long a writer waits for another one, on SQLite."""
MIGRATION_LOCK = 0x57AC5E
MOST_ATTEMPTS = 5
PASSING = ("40001", "40P01", "23505")
"""PostgreSQL's codes of what another transaction caused: serialization, deadlock, a row made meanwhile."""

T = TypeVar("T")


class Database:
    """Any number of threads, and of processes, may use the same one. Made by `open_database`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        options = {} if engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        self._reading = engine.execution_options(stackserve_reads=True, **options)

    @property
    def dialect(self) -> str:
        return self._engine.dialect.name

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One consistent view; what is changed in it is lost."""
        with Session(self._reading, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: committed at the end of the block, and forgotten when it raises.

        Writers come one after the other on SQLite. On PostgreSQL they lock the rows that they change:
        read those `with_for_update`.
        """
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    def transact(self, work: Callable[[Session], T]) -> T:
        """Do work in one transaction; again, from its beginning, when another one got in its way."""
        for attempt in range(1, MOST_ATTEMPTS + 1):
            try:
                with self.write() as session:
                    return work(session)
            except (IntegrityError, OperationalError) as error:
                if attempt == MOST_ATTEMPTS or not _is_passing(error):
                    raise
        raise AssertionError("unreachable")

    @contextmanager
    def held(self) -> Iterator[Connection]:
        """A connection of its own, for locks that live as long as it does."""
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield connection

    def close(self) -> None:
        self._engine.dispose()


def open_database(url: str) -> Database:
    """Open a database by its SQLAlchemy URL and bring its schema up to date.

    Raises ConfigError when it cannot be opened, or is of a newer stackserve.
    """
    try:
        parsed = make_url(url)
        engine = create_engine(url, **_options(parsed.get_backend_name()))
    except (ArgumentError, ImportError) as error:
        raise ConfigError(
            f"the database URL is not usable: {error}; give sqlite:////path/to/file or "
            "postgresql+psycopg://user@host/name (for which stackserve[postgres] is installed)"
        ) from None
    if engine.dialect.name == "sqlite":
        _set_up_sqlite(engine)
    try:
        migrate(engine)
    except CommandError:
        engine.dispose()
        raise ConfigError(
            f"the database {parsed.render_as_string()} is of a newer stackserve; upgrade this one"
        ) from None
    except (SQLAlchemyError, sqlite3.Error) as error:
        engine.dispose()
        raise ConfigError(
            f"the database {parsed.render_as_string()} cannot be opened: "
            f"{getattr(error, 'orig', error)}; is the server up and the folder writable?"
        ) from None
    return Database(engine)


def migrate(engine: Engine, revision: str = "head") -> None:
    """Bring the schema to a revision; two processes that start together do it once."""
    with (
        as_file(files("stackserve.store") / "migrations") as scripts,
        engine.connect() as connection,
    ):
        config = Config()
        config.set_main_option("script_location", str(scripts).replace("%", "%%"))
        config.attributes["connection"] = connection
        with connection.begin():
            if engine.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
            command.upgrade(config, revision)


def _options(backend: str) -> dict[str, Any]:
    if backend == "sqlite":
        return {"connect_args": {"timeout": BUSY_SECONDS, "check_same_thread": False}}
    return {"pool_pre_ping": True}


def _is_passing(error: IntegrityError | OperationalError) -> bool:
    return getattr(error.orig, "sqlstate", None) in PASSING


def _set_up_sqlite(engine: Engine) -> None:
    """WAL, so that readers and the writer do not wait for each other; every commit is on the disk when
    it returns; transactions begin when they are told to, and not at the first write.
    """

    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get("stackserve_reads")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
