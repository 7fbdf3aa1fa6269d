"""Every released schema becomes the newest one, wholly or not at all, and keeps its rows."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, create_engine, make_url, select, text

import stackserve.store
from stackserve.store.database import Database, open_database
from stackserve.store.schema import migrate_by
from stackserve.store.tables import GroupMember, Table
from tests.store.released_rows import SCHEMAS, rows

MIGRATIONS = Path(stackserve.store.__file__).parent / "migrations"
REVISIONS = sorted(path.name[:4] for path in MIGRATIONS.glob("versions/[0-9]*.py"))

NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{newest}"

def upgrade():
    with op.batch_alter_table("groups") as table:
        table.alter_column("type", type_=sa.Text(), existing_type=sa.String(255))
    {then}
"""


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Of an empty database."""
    database = open_database(database_url)
    yield database._engine
    database.close()


def restore(url: str, revision: str) -> None:
    """Fill an empty database from the dump of a released schema."""
    parsed = make_url(url)
    dump = (SCHEMAS / f"{revision}.{parsed.get_backend_name()}.sql").read_text()
    if parsed.get_backend_name() == "sqlite":
        connection = sqlite3.connect(str(parsed.database))
        connection.executescript(dump)
        connection.close()
        return
    host = str(parsed.query["host"])
    with psycopg.connect(host=host, user=parsed.username, dbname=parsed.database) as there:
        there.execute(dump.encode())


def differences(url: str) -> list[object]:
    """Between a database's schema and the tables."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), Table.metadata)
    engine.dispose()
    return list(found)


def columns_of(row: Table) -> dict[str, object]:
    return {column.key: getattr(row, column.key) for column in row.__mapper__.column_attrs}


@pytest.mark.parametrize("revision", ["", *REVISIONS])
def test_every_schema_becomes_exactly_the_tables(database_url: str, revision: str) -> None:
    if revision:
        restore(database_url, revision)
    open_database(database_url).close()
    assert differences(database_url) == []


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_rows_of_every_schema_are_read_as_they_were_written(
    database_url: str, revision: str
) -> None:
    restore(database_url, revision)
    database = open_database(database_url)
    with database.read() as session:
        for row in rows():
            given = {name: value for name, value in columns_of(row).items() if value is not None}
            identity = [given.get(key.name, 1) for key in type(row).__mapper__.primary_key]
            found = columns_of(session.get_one(type(row), identity))
            assert {name: found[name] for name in given} == given
    database.close()


def next_migrations(folder: Path, then: str = "") -> Path:
    """The migrations, and one more that changes a table to which rows refer."""
    shutil.copytree(MIGRATIONS, folder)
    written = NEXT.format(newest=REVISIONS[-1], then=then)
    (folder / "versions" / "9999_next.py").write_text(written)
    return folder


def schema_of(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return connection.scalar(text("SELECT version_num FROM alembic_version"))


def test_a_table_that_is_changed_loses_nothing_that_refers_to_it(
    database_url: str, tmp_path: Path
) -> None:
    restore(database_url, REVISIONS[-1])
    database = open_database(database_url)
    migrate_by(database._engine, next_migrations(tmp_path / "next"))
    assert schema_of(database._engine) == "9999"
    with database.read() as session:
        assert len(session.scalars(select(GroupMember)).all()) == 2
    database.close()


def test_a_migration_that_breaks_changes_nothing(
    engine: Engine, database_url: str, tmp_path: Path
) -> None:
    with pytest.raises(ZeroDivisionError):
        migrate_by(engine, next_migrations(tmp_path / "next", then="1 / 0"))
    assert schema_of(engine) == REVISIONS[-1]
    assert differences(database_url) == []


def test_a_migration_that_leaves_a_row_without_what_it_refers_to_changes_nothing(
    database_url: str, tmp_path: Path
) -> None:
    restore(database_url, REVISIONS[-1])
    database = open_database(database_url)
    then = 'op.execute("DELETE FROM groups")'
    with pytest.raises(Exception, match="refer"):
        migrate_by(database._engine, next_migrations(tmp_path / "next", then))
    assert schema_of(database._engine) == REVISIONS[-1]
    assert_members(database)
    database.close()


def assert_members(database: Database) -> None:
    with database.read() as session:
        assert len(session.scalars(select(GroupMember)).all()) == 2
