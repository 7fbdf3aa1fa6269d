"""The schema: brought to the newest revision, once, whoever else starts at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from stackserve.errors import ConfigError

MIGRATION_LOCK = 0x57AC5E


def migrate(engine: Engine) -> None:
    """Bring the schema to the newest revision: wholly, or not at all.

    Raises ConfigError for a schema that this stackserve does not know.
    """
    with as_file(files("stackserve.store") / "migrations") as folder:
        migrate_by(engine, folder)


def migrate_by(engine: Engine, folder: Path) -> None:
    """As `migrate`, by the migrations of a folder."""
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    with engine.connect() as connection, _alone(connection):
        config.attributes["connection"] = connection
        _refuse_unknown(connection, ScriptDirectory.from_config(config))
        command.upgrade(config, "head")


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """One transaction that no other migration runs beside."""
    if connection.dialect.name == "postgresql":
        with connection.begin():
            connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
            yield
        return
    # SQLite changes a table by making another and dropping the first, and with foreign keys on, what
    # refers to a dropped table's rows is deleted with them.
    with _sqlite_without_foreign_keys(connection), connection.begin():
        yield
        if broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all():
            raise AssertionError(f"the migration leaves rows that refer to nothing: {broken[:3]}")


@contextmanager
def _sqlite_without_foreign_keys(connection: Connection) -> Iterator[None]:
    """Must be told outside of a transaction: inside, SQLite does not listen."""
    raw: Any = connection.connection.dbapi_connection
    raw.execute("PRAGMA foreign_keys=OFF").close()
    try:
        yield
    finally:
        raw.execute("PRAGMA foreign_keys=ON").close()


def _refuse_unknown(connection: Connection, scripts: ScriptDirectory) -> None:
    known = {script.revision for script in scripts.walk_revisions()}
    current = MigrationContext.configure(connection).get_current_heads()
    if unknown := sorted(set(current) - known):
        raise ConfigError(
            f"its schema {unknown[0]} is of a newer stackserve, or of something else; upgrade "
            f"stackserve (this one knows schemas up to {scripts.get_current_head()}), or name another "
            "database"
        )
