"""A database is opened, made where there is none, or refused in a sentence that says what to do."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from stackserve.errors import ConfigError
from stackserve.store.database import open_database
from tests.store.children import CONTEXT, open_and_close


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "give sqlite:"),
        ("", "give sqlite:"),
        ("mysql://u@h/d", "mysql is not offered; give sqlite:"),
        ("postgresql+asyncpg://u@h/d", "postgresql.asyncpg is not offered"),
        ("postgresql://u@h:port/d", "give sqlite:"),
        ("sqlite://", "it names no file"),
        ("sqlite:///:memory:", "it names no file"),
        ("sqlite:///file:x?uri=true", "it names no file"),
        ("postgresql://u:secret@127.0.0.1:1/d", "is the server up"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        open_database(url)
    assert "secret" not in caught.value.message


def test_a_file_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/made/d.db")
    modes = {path.name: path.stat().st_mode for path in tmp_path.rglob("*")}
    database.close()
    assert stat.S_IMODE(modes.pop("made")) == 0o700
    assert modes.keys() == {"d.db", "d.db-wal", "d.db-shm"}
    assert {stat.S_IMODE(mode) for mode in modes.values()} == {0o600}


def test_every_commit_is_on_the_disk_and_readers_do_not_wait(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/d.db")
    with database.read() as session:
        asked = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        told = [session.scalar(text(f"PRAGMA {name}")) for name in asked]
    database.close()
    assert told == ["wal", 2, 1, 30_000]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"{tmp_path}/file/d.db cannot be opened: .*writable"):
        open_database(f"sqlite:///{tmp_path}/file/d.db")


def test_a_file_that_is_no_database_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("no database, but long enough to be read as one" * 9)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="not a database; is it an SQLite file"):
        open_database(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_another_programs_tables_are_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE projects (name TEXT)")
    connection.close()
    with pytest.raises(ConfigError, match="table projects already exists"):
        open_database(f"sqlite:///{path}")
    connection = sqlite3.connect(path)
    names = connection.execute("SELECT name FROM sqlite_master").fetchall()
    connection.close()
    assert names == [("projects",)]


def test_a_database_of_a_newer_stackserve_is_refused(database_url: str) -> None:
    open_database(database_url).close()
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(ConfigError, match="its schema 9999 is of a newer stackserve"):
        open_database(database_url)


def test_processes_that_open_a_new_database_together_make_it_once(database_url: str) -> None:
    barrier = CONTEXT.Barrier(4)
    children = [CONTEXT.Process(target=open_and_close, args=(database_url, barrier))
                for _ in range(4)]  # fmt: skip
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4


def test_who_opens_a_file_while_another_process_makes_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sqlite3.connect(tmp_path / "d.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waited = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        other.close()

    monkeypatch.setattr("stackserve.store.database.time.sleep", sleep)
    open_database(f"sqlite:///{tmp_path}/d.db").close()
    assert len(waited) == 1
