"""What other processes do to a database. They are forked from one that has imported everything."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
from multiprocessing.connection import Connection
from threading import Barrier
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from stackserve.catalog.projects import create_project
from stackserve.catalog.retry_tokens import Answer, once
from stackserve.catalog.work_requests import done_at_once
from stackserve.store.database import Database, open_database
from stackserve.store.tables import Project

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__, "pytest"])

THREADS = 4


def open_and_close(url: str, barrier: Barrier) -> None:
    barrier.wait()
    open_database(url).close()


def ask_with_one_token(url: str, barrier: Barrier, told: Any) -> None:
    """Create a project in some threads at once, all with the same retry token; tell the answers."""
    database = open_database(url)

    def ask() -> None:
        barrier.wait()
        told.put(create_once(database).body)

    threads = [threading.Thread(target=ask) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    database.close()


def create_once(database: Database) -> Answer:
    def work(session: Session) -> Answer:
        def create() -> Answer:
            made = create_project(session, "me", compartment_id="c", display_name="p")
            return Answer(200, made.id)

        return once(session, "token", "body", create)

    return database.transact(work)


def add_account(session: Session, name: str, amount: int) -> None:
    """A project whose revision is what is on the account."""
    account = create_project(session, "me", compartment_id="accounts", display_name=name)
    account.revision = amount


def account(session: Session, name: str) -> Project:
    query = select(Project).where(Project.display_name == name).with_for_update()
    return session.scalars(query).one()


def work_until_killed(url: str, told: Connection) -> None:
    """Transfer one from an account to the other, and create a project and its work request: all in one
    transaction, again and again. The ids of what was committed are told.
    """
    database = open_database(url)
    for number in itertools.count():

        def work(session: Session, number: int = number) -> str:
            account(session, "from").revision -= 1
            session.flush()
            made = create_project(session, "me", compartment_id="c", display_name=f"p{number}")
            session.flush()
            done_at_once(session, "PROJECT_CREATE", "CREATED", made)
            account(session, "to").revision += 1
            return made.id

        told.send(database.transact(work))
