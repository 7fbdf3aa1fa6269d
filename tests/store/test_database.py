"""Transactions: whole, apart from each other, and done again when another one got in their way."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from stackserve.catalog.projects import create_project
from stackserve.control.storefront import open_store
from stackserve.errors import ConfigError, StoreUnavailable
from stackserve.server_settings import ServerSettings
from stackserve.store.database import Database, open_database
from stackserve.store.tables import Project
from tests.store.children import CONTEXT, THREADS, account, add_account, ask_with_one_token

PATIENCE = 60.0


def count(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Project)) or 0


def add(session: Session) -> Project:
    return create_project(session, "me", compartment_id="c", display_name="p")


def together(number: int, work: Callable[[], None]) -> None:
    """Do work in so many threads at once; it is over when all have ended."""
    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)


def test_what_raises_is_forgotten(database: Database) -> None:
    def work(session: Session) -> None:
        create_project(session, "me", compartment_id="c", display_name="p")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        database.transact(work)
    with database.read() as session:
        assert session.query(Project).count() == 0


def test_a_name_is_one_servers_at_a_time(database_url: str, tmp_path: Path) -> None:
    settings = ServerSettings(store=True, database=database_url, gateway="one")
    with open_store(settings, tmp_path):
        with (
            pytest.raises(ConfigError, match="another server named one"),
            open_store(settings, tmp_path),
        ):
            pass
        other = settings.model_copy(update={"gateway": "two"})
        with open_store(other, tmp_path):
            pass
    with open_store(settings, tmp_path):
        pass


def test_a_reader_sees_one_moment_and_does_not_wait(database: Database) -> None:
    with database.read() as session:
        before = count(session)
        database.transact(add)
        assert count(session) == before
    with database.read() as session:
        assert count(session) == before + 1


def test_nothing_is_written_while_reading(database: Database) -> None:
    def write(session: Session) -> None:
        add(session)
        session.flush()

    with database.read() as session, pytest.raises(DBAPIError, match=r"read-?only"):
        write(session)
    database.transact(add)
    with database.read() as session:
        assert count(session) == 1


def test_forty_threads_read_at_once(database: Database) -> None:
    all_read, seen = threading.Barrier(40), []

    def read() -> None:
        with database.read() as session:
            before = count(session)
            all_read.wait(PATIENCE)
            seen.append((before, count(session)))

    together(40, read)
    assert seen == [(0, 0)] * 40


def test_no_update_of_forty_threads_is_lost(database: Database) -> None:
    with database.write() as session:
        add_account(session, "all", 0)

    def work(session: Session) -> None:
        account(session, "all").revision += 1

    together(40, lambda: database.transact(work))
    with database.read() as session:
        assert session.scalars(select(Project.revision)).all() == [40]


def test_of_requests_with_one_retry_token_in_two_processes_one_is_done(
    database: Database, database_url: str
) -> None:
    barrier, told = CONTEXT.Barrier(2 * THREADS), CONTEXT.Queue()
    asked = (database_url, barrier, told)
    children = [CONTEXT.Process(target=ask_with_one_token, args=asked) for _ in range(2)]
    for child in children:
        child.start()
    answers = [told.get(timeout=PATIENCE) for _ in range(2 * THREADS)]
    for child in children:
        child.join()
    told.close()
    assert len(set(answers)) == 1
    with database.read() as session:
        assert list(session.scalars(select(Project.id))) == [answers[0]]


def test_transactions_that_wait_for_each_other_are_both_done(database: Database) -> None:
    with database.write() as session:
        add_account(session, "one", 0)
        add_account(session, "two", 0)
    locked, attempts = threading.Barrier(2), []

    def cross(first: str, second: str) -> None:
        def work(session: Session) -> None:
            attempts.append(first)
            account(session, first).revision += 1
            session.flush()
            if database.dialect == "postgresql" and attempts.count(first) == 1:
                locked.wait(PATIENCE)
            account(session, second).revision += 1

        database.transact(work)

    orders = iter([("one", "two"), ("two", "one")])
    together(2, lambda: cross(*next(orders)))
    assert len(attempts) == (3 if database.dialect == "postgresql" else 2)
    with database.read() as session:
        assert sorted(session.scalars(select(Project.revision))) == [2, 2]


def test_work_that_always_collides_is_given_up(database: Database) -> None:
    made, attempts = database.transact(add), []

    def work(session: Session) -> None:
        attempts.append(1)
        session.add(Project(**{c.key: getattr(made, c.key) for c in Project.__table__.columns}))

    with pytest.raises(IntegrityError):
        database.transact(work)
    assert len(attempts) == (5 if database.dialect == "postgresql" else 1)


def test_what_runs_while_it_is_closed_ends_and_nothing_new_begins(
    database_url: str, tmp_path: Path
) -> None:
    database = open_database(database_url)
    with database.write() as session:
        add(session)
        database.close()
    with pytest.raises(StoreUnavailable, match="closed"), database.read():
        pass
    with pytest.raises(StoreUnavailable, match="closed"):
        database.transact(add)
    gc.collect()  # a connection that was left open would warn, and warnings are errors
    assert not list(tmp_path.glob("*-wal")), "the last connection puts all into the file"
    database = open_database(database_url)
    with database.read() as session:
        assert count(session) == 1
    database.close()
