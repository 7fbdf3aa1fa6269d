"""What a database that fails has its callers told: a sentence, and never a traceback."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import create_engine, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from stackserve.catalog.projects import create_project
from stackserve.errors import InvalidParameter, StoreUnavailable
from stackserve.store import database as module
from stackserve.store.database import Database, open_database
from stackserve.store.outages import remedy_of
from stackserve.store.tables import Project


def add(session: Session, name: str = "p", description: str = "") -> None:
    create_project(session, "me", compartment_id="c", display_name=name, description=description)


def test_a_full_disk_is_told_and_what_was_there_stays(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/d.db")
    database.transact(add)

    def fill(session: Session) -> None:
        session.execute(text("PRAGMA max_page_count=1"))  # no page more than there are
        add(session, "much", "x" * 1_000_000)

    with pytest.raises(StoreUnavailable, match="full; its disk is full; make room"):
        database.transact(fill)
    with database.read() as session:
        session.execute(text("PRAGMA max_page_count=1000000"))
        assert session.scalars(select(Project.display_name)).all() == ["p"]
    database.transact(add)
    database.close()


def test_who_waits_too_long_for_another_process_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.05)
    database = open_database(f"sqlite:///{tmp_path}/d.db")
    other = sqlite3.connect(tmp_path / "d.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="another process keeps it locked; ask again"):
        database.transact(add)
    with database.read() as session:
        assert session.scalars(select(Project)).all() == [], "readers do not wait"
    other.execute("ROLLBACK")
    other.close()
    database.transact(add)
    database.close()


def test_a_file_that_is_damaged_is_told(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/d.db")
    for number in range(100):
        database.transact(lambda session, name=f"p{number}": add(session, name, "x" * 2000))
    database.close()
    whole = (tmp_path / "d.db").read_bytes()
    keep = 3 * len(whole) // 4
    (tmp_path / "d.db").write_bytes(whole[:keep] + b"\xff" * (len(whole) - keep))
    database = open_database(f"sqlite:///{tmp_path}/d.db")
    with (
        pytest.raises(StoreUnavailable, match="its file is damaged; restore a copy"),
        database.read() as session,
    ):
        session.scalars(select(Project.description)).all()
    database.close()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_connection_that_is_cut_is_told_and_the_next_one_works(
    database: Database, database_url: str
) -> None:
    def cut() -> None:
        engine = create_engine(database_url)
        with engine.begin() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        engine.dispose()

    def work(session: Session) -> None:
        add(session)
        session.flush()
        cut()
        add(session)

    with pytest.raises(StoreUnavailable, match="ask again when it is up"):
        database.transact(work)
    database.transact(add)
    cut()
    with database.read() as session:
        assert len(session.scalars(select(Project)).all()) == 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_when_all_connections_are_in_use_it_is_told(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_CONNECTIONS", 10)
    monkeypatch.setattr(module, "POOL_SECONDS", 0.05)
    database = open_database(database_url)
    with (
        pytest.raises(StoreUnavailable, match=r"all connections .* in use; ask again"),
        database.read() as session,
    ):
        nest(database, session, 10)
    database.close()


def nest(database: Database, session: Session, deeper: int) -> None:
    session.execute(text("SELECT 1"))
    if deeper:
        with database.read() as another:
            nest(database, another, deeper - 1)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("name", ["nul \0 within", "x" * 256])
def test_a_value_that_cannot_be_stored_is_the_callers_fault(database: Database, name: str) -> None:
    with pytest.raises(InvalidParameter, match="a value cannot be stored"):
        database.transact(lambda session: add(session, name))


class FromPostgresql(Exception):
    def __init__(self, sqlstate: str | None) -> None:
        super().__init__("it says so")
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("53100", "disk is full"),
        ("53300", "short of resources"),
        ("57P03", "when it is up"),
        ("08006", "connection is lost"),
        ("25006", "replica"),
        ("58030", "disk fails"),
        ("42P01", None),
        ("23503", None),
    ],
)
def test_postgresqls_codes_have_their_remedies(state: str, words: str | None) -> None:
    remedy = remedy_of(DBAPIError("SELECT", {}, FromPostgresql(state)))
    assert (remedy is None) if words is None else (words in str(remedy))
