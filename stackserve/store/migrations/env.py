"""Runs the migrations on the connection that `database.migrate` gives; there is no other way."""

from __future__ import annotations

from alembic import context

from stackserve.store.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    render_as_batch=True,  # SQLite cannot alter a table
)
context.run_migrations()
