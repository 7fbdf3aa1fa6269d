"""The database: its schema, its transactions, and the sentences when it cannot be opened."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from stackserve.catalog.projects import create_project
from stackserve.catalog.retry_tokens import Answer, once
from stackserve.control.storefront import open_store
from stackserve.errors import ConfigError
from stackserve.server_settings import ServerSettings
from stackserve.store.database import Database, open_database
from stackserve.store.tables import Project, Table


def test_the_migrations_make_exactly_the_tables(database_url: str) -> None:
    open_database(database_url).close()
    engine = create_engine(database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Table.metadata) == []
    engine.dispose()


def test_what_raises_is_forgotten(database: Database) -> None:
    def work(session: Session) -> None:
        create_project(session, "me", compartment_id="c", display_name="p")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        database.transact(work)
    with database.read() as session:
        assert session.query(Project).count() == 0


def test_of_eight_requests_with_one_retry_token_one_is_done(
    database: Database,
) -> None:
    answers = []

    def ask() -> None:
        def work(session: Session) -> Answer:
            def create() -> Answer:
                made = create_project(session, "me", compartment_id="c", display_name="p")
                return Answer(200, made.id)

            return once(session, "token", "body", create)

        answers.append(database.transact(work))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert len({answer.body for answer in answers}) == 1
    with database.read() as session:
        assert session.query(Project).count() == 1


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


def test_a_newer_schema_and_no_database_are_refused_in_a_sentence(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/d.db"
    open_database(url).close()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    (tmp_path / "text.db").write_text("no database, but long enough to be read as one" * 9)
    for wrong, words in (
        (url, "newer"),
        (f"sqlite:///{tmp_path}/text.db", "cannot be opened"),
        (f"sqlite:///{tmp_path}/nowhere/d.db", "cannot be opened"),
        ("nonsense", "not usable"),
    ):
        with pytest.raises(ConfigError, match=words):
            open_database(wrong)
