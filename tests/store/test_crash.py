"""A process is killed in the middle of its transactions: each is there wholly, or not at all.

What a whole gateway leaves behind is in tests/oci/test_crash.py.
"""

from __future__ import annotations

import random
import time
from multiprocessing.connection import Connection
from pathlib import Path

from sqlalchemy import select

from stackserve.store.database import Database, open_database
from stackserve.store.tables import Project, WorkRequest
from tests.store.children import CONTEXT, account, add_account, open_and_close, work_until_killed

KILLS = 60
START = 1_000_000


def committed_until_killed(url: str, dice: random.Random) -> list[str]:
    """Let a process work for a moment; what it said it had committed."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    child = CONTEXT.Process(target=work_until_killed, args=(url, theirs))
    child.start()
    theirs.close()
    told = [ours.recv()]
    time.sleep(dice.uniform(0, 0.03))  # the moment is chance, and any will do
    child.kill()
    child.join()
    told += rest_of(ours)
    ours.close()
    child.close()
    return told


def rest_of(pipe: Connection) -> list[str]:
    found = []
    try:
        while True:
            found.append(pipe.recv())
    except EOFError:
        return found


def check(database: Database, committed: set[str]) -> None:
    with database.read() as session:
        made = set(session.scalars(select(Project.id).where(Project.compartment_id == "c")))
        works = session.scalars(select(WorkRequest.resource_id)).all()
        moved = account(session, "to").revision
        left = account(session, "from").revision
    assert committed <= made, "what was committed is there"
    assert sorted(works) == sorted(made), "each has its work request"
    assert (left, moved) == (START - len(made), len(made)), "both accounts, or none"


def test_a_process_that_is_killed_leaves_whole_transactions(tmp_path: Path) -> None:
    url, dice = f"sqlite:///{tmp_path}/d.db", random.Random(0)
    committed: set[str] = set()
    database = open_database(url)
    with database.write() as session:
        add_account(session, "from", START)
        add_account(session, "to", 0)
    database.close()
    for _ in range(KILLS):
        committed.update(committed_until_killed(url, dice))
        database = open_database(url)
        check(database, committed)
        database.close()


def test_a_process_that_is_killed_while_it_makes_the_database_leaves_one_that_opens(
    tmp_path: Path,
) -> None:
    dice = random.Random(0)
    for number in range(20):
        url, barrier = f"sqlite:///{tmp_path}/{number}.db", CONTEXT.Barrier(2)
        child = CONTEXT.Process(target=open_and_close, args=(url, barrier))
        child.start()
        barrier.wait()
        time.sleep(dice.uniform(0, 0.04))
        child.kill()
        child.join()
        child.close()
        database = open_database(url)
        with database.read() as session:
            assert session.scalars(select(Project)).all() == []
        database.close()
