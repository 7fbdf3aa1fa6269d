"""The database: opened, brought to the newest schema, and read or written in transactions."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from stackserve.errors import ConfigError, StoreUnavailable
from stackserve.store.outages import is_passing, told_as_domain_errors
from stackserve.store.schema import migrate

BUSY_SECONDS = 30
"""How long a writer waits for another one, on SQLite."""
CONNECT_SECONDS = 10
POOL_SECONDS = 30
"""How long a thread waits for a connection to PostgreSQL."""
MOST_ATTEMPTS = 5
MOST_CONNECTIONS = 40
"""Of one server to PostgreSQL, as many as threads that answer: two servers fit its usual hundred."""
DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
"""The drivers of a URL, and what is used for it."""
READS = "stackserve_reads"

T = TypeVar("T")


class Database:
    """Any number of threads, and of processes, may use the same one. Made by `open_database`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_open = True
        options: dict[str, Any] = {READS: True}
        if engine.dialect.name == "postgresql":
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self._reading = engine.execution_options(**options)
        event.listen(engine, "checkin", self._on_checkin)

    @property
    def dialect(self) -> str:
        return self._engine.dialect.name

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One consistent view, in which nothing can be written. Raises StoreUnavailable."""
        self._refuse_when_closed()
        with told_as_domain_errors(), Session(self._reading, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: committed at the end of the block, and forgotten when it raises.

        Writers come one after the other on SQLite. On PostgreSQL they lock the rows that they change:
        read those `with_for_update`. Raises StoreUnavailable.
        """
        with told_as_domain_errors(), self._transaction() as session:
            yield session

    def transact(self, work: Callable[[Session], T]) -> T:
        """Do work in one transaction; again, from its beginning, when another one got in its way.

        Raises StoreUnavailable.
        """
        until = time.monotonic() + BUSY_SECONDS
        attempt = 0
        with told_as_domain_errors():
            while True:
                attempt += 1
                try:
                    with self._transaction() as session:
                        return work(session)
                except DBAPIError as error:
                    tired = attempt == MOST_ATTEMPTS or time.monotonic() > until
                    if tired or not is_passing(error):
                        raise

    @contextmanager
    def held(self) -> Iterator[Connection]:
        """A connection of its own to PostgreSQL, for locks that live as long as it does."""
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield connection

    def close(self) -> None:
        """What still runs ends as it would have; nothing new begins."""
        self._is_open = False
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        self._refuse_when_closed()
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    def _refuse_when_closed(self) -> None:
        if not self._is_open:
            raise StoreUnavailable("the database is closed: the server stops; ask again later")

    def _on_checkin(self, _: object, record: Any) -> None:
        if not self._is_open:
            record.invalidate()  # nobody would close it any more


def open_database(url: str) -> Database:
    """Open a database by its SQLAlchemy URL and bring its schema up to date. An SQLite file is made,
    and its folder, for their owner alone.

    Raises ConfigError when it cannot be opened, or is of a newer stackserve.
    """
    parsed, engine = _engine_of(url)
    try:
        migrate(engine)
    except (ConfigError, SQLAlchemyError, sqlite3.Error) as error:
        engine.dispose()
        why = str(getattr(error, "orig", error)).strip()
        remedy = "" if isinstance(error, ConfigError) else _opening_remedy(parsed)
        raise ConfigError(
            f"the database {parsed.render_as_string()} cannot be opened: {why}{remedy}"
        ) from None
    return Database(engine)


def _engine_of(url: str) -> tuple[URL, Engine]:
    """Raises ConfigError."""
    try:
        parsed = make_url(url)
        driver = DRIVERS.get(parsed.drivername)
        if driver is None:
            raise ArgumentError(f"{parsed.drivername} is not offered")
        parsed = parsed.set(drivername=driver)
        if parsed.get_backend_name() == "sqlite":
            return _sqlite_engine(parsed)
        waiting = {} if "connect_timeout" in parsed.query else {"connect_timeout": CONNECT_SECONDS}
        return parsed, create_engine(
            parsed,
            pool_pre_ping=True,
            pool_timeout=POOL_SECONDS,
            pool_size=10,
            max_overflow=MOST_CONNECTIONS - 10,
            connect_args=waiting,
        )
    except (ArgumentError, ImportError, ValueError) as error:
        raise ConfigError(
            f"the database URL is not usable: {error}; give sqlite:////path/to/file or "
            "postgresql+psycopg://user@host/name (for which stackserve[postgres] is installed)"
        ) from None


def _sqlite_engine(url: URL) -> tuple[URL, Engine]:
    """WAL, so that readers and the writer do not wait for each other; every commit is on the disk when
    it returns; transactions begin when they are told to, and not at the first write.

    Raises ArgumentError for what is no file, and ConfigError when the file cannot be made.
    """
    if url.database in (None, "", ":memory:") or str(url.database).startswith("file:"):
        raise ArgumentError("it names no file")
    path = Path(str(url.database)).expanduser()
    _make_file(path)
    url = url.set(database=str(path))
    connecting = {"timeout": BUSY_SECONDS, "check_same_thread": False}
    engine = create_engine(url, connect_args=connecting, pool_size=10, max_overflow=-1)

    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None
        _set_wal(connection)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        reads = bool(connection.get_execution_options().get(READS))
        connection.exec_driver_sql(f"PRAGMA query_only={reads:d}")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return url, engine


def _make_file(path: Path) -> None:
    """SQLite gives the files beside it the same mode."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise ConfigError(
            f"the database {path} cannot be opened: {error.strerror}; name a file in a folder that is "
            "writable (server.database, server.data)"
        ) from None


def _set_wal(connection: sqlite3.Connection) -> None:
    """Kept in the file; who first sets it does not wait for others, so it is asked again."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            if mode != "wal":
                raise sqlite3.OperationalError("its file system does not allow SQLite's WAL mode")
            return


def _opening_remedy(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return "; is it an SQLite file, on a local disk, and writable?"
    return "; is the server up, does the database exist, and may this user make tables in it?"
