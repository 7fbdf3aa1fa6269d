"""What a database says when it cannot do its work, as errors of this domain."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection

from stackserve.errors import InvalidParameter, StoreUnavailable

PASSING = ("40001", "40P01", "23503", "23505")
"""PostgreSQL's codes of what another transaction caused: serialization, deadlock, a row that was deleted
or made meanwhile."""

SQLITE_REMEDIES = {
    sqlite3.SQLITE_BUSY: "another process keeps it locked; ask again",
    sqlite3.SQLITE_FULL: "its disk is full; make room",
    sqlite3.SQLITE_IOERR: "its disk fails or is full; look at the system's log",
    sqlite3.SQLITE_READONLY: "its file or folder is not writable; see to its owner and mode",
    sqlite3.SQLITE_CANTOPEN: "its file or folder is gone or not accessible; put it back",
    sqlite3.SQLITE_CORRUPT: "its file is damaged; restore a copy",
    sqlite3.SQLITE_NOTADB: "its file is no SQLite database; restore a copy, or name another file",
}
POSTGRESQL_REMEDIES = {
    "08": "the connection is lost; ask again",
    "25006": "the server is a read-only replica; name the primary in the URL",
    "53100": "the server's disk is full; make room",
    "53": "the server is short of resources; ask again, or raise its limits",
    "55P03": "another transaction keeps it locked; ask again",
    "57": "the server stops or was stopped; ask again when it is up",
    "58": "the server's disk fails; look at its log",
}


@contextmanager
def told_as_domain_errors() -> Iterator[None]:
    """Raise StoreUnavailable for what is not the caller's fault nor a bug, and InvalidParameter for a
    value that the database cannot store.
    """
    try:
        yield
    except NoConnection:
        raise StoreUnavailable("all connections to the database are in use; ask again") from None
    except DataError as error:
        raise InvalidParameter(f"a value cannot be stored: {_first_line(error)}") from error
    except DBAPIError as error:
        remedy = remedy_of(error)
        if remedy is None:
            raise
        raise StoreUnavailable(
            f"the database does not answer: {_first_line(error)}; {remedy}"
        ) from error


def remedy_of(error: DBAPIError) -> str | None:
    """What helps against an outage; None when it is none."""
    if isinstance(error.orig, sqlite3.Error):
        code = getattr(error.orig, "sqlite_errorcode", None)
        return None if code is None else SQLITE_REMEDIES.get(code & 0xFF)
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return POSTGRESQL_REMEDIES["08"] if error.connection_invalidated else None
    return POSTGRESQL_REMEDIES.get(state) or POSTGRESQL_REMEDIES.get(state[:2])


def is_passing(error: DBAPIError) -> bool:
    """Whether another transaction caused it, so that the same work may succeed now."""
    if isinstance(error.orig, sqlite3.Error):
        return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
    return getattr(error.orig, "sqlstate", None) in PASSING


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).partition("\n")[0]
