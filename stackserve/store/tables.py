"""The tables: what is known of models, groups, deployments and the work on them.

A column is what is searched, sorted or joined by; what is only handed back is JSON. `unused` keeps the
fields that a client sent and nothing here reads, so that they are returned as they came.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

Json = dict[str, Any]


class UtcTime(TypeDecorator[datetime]):
    """A moment, always with its zone: SQLite's own type forgets it."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value and value.tzinfo is None else value


class Table(DeclarativeBase):
    """The base of all tables. Constraints have names, so that a migration can find them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  # as SQLAlchemy wants it
        datetime: UtcTime,
        Json: JSON,
        list[Json]: JSON,
        Json | None: JSON(none_as_null=True),
        str: String(255),
    }


class Resource(Table):
    """What everything with an OCID has. `revision` counts its changes, and is its etag."""

    __abstract__ = True

    id: Mapped[str] = mapped_column(primary_key=True)
    compartment_id: Mapped[str] = mapped_column(index=True)
    display_name: Mapped[str]
    description: Mapped[str | None] = mapped_column(Text)
    lifecycle_state: Mapped[str]
    lifecycle_details: Mapped[str] = mapped_column(Text, default="")
    created_by: Mapped[str]
    time_created: Mapped[datetime] = mapped_column(index=True)
    time_updated: Mapped[datetime]
    revision: Mapped[int] = mapped_column(default=1)
    freeform_tags: Mapped[Json] = mapped_column(default=dict)
    defined_tags: Mapped[Json] = mapped_column(default=dict)
    unused: Mapped[Json] = mapped_column(default=dict)


class Project(Resource):
    __tablename__ = "projects"


class OfProject(Resource):
    """A resource that belongs to a project."""

    __abstract__ = True

    project_id: Mapped[str] = mapped_column(index=True)


class Artifact(Table):
    """Bytes in the artifact store, or a base that stays in the folder where it was found."""

    __tablename__ = "artifacts"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    folder: Mapped[str | None] = mapped_column(Text)
    """Where it is, when it is not in the store."""
    facts: Mapped[Json] = mapped_column(default=dict)
    """What validation found, see `catalog/preflight.py`."""
    time_created: Mapped[datetime]


class ModelVersionSet(OfProject):
    __tablename__ = "model_version_sets"

    latest_version: Mapped[int] = mapped_column(default=0)


class Model(OfProject):
    __tablename__ = "models"

    artifact_digest: Mapped[str | None] = mapped_column(ForeignKey("artifacts.digest"), index=True)
    custom_metadata: Mapped[list[Json]] = mapped_column(default=list)
    defined_metadata: Mapped[list[Json]] = mapped_column(default=list)
    version_set_id: Mapped[str | None] = mapped_column(
        ForeignKey("model_version_sets.id"), index=True
    )
    version_id: Mapped[int | None]
    version_label: Mapped[str | None]


class VersionHistory(OfProject):
    """The versions of a group, in order."""

    __tablename__ = "version_histories"

    latest_group_id: Mapped[str | None]
    latest_version: Mapped[int] = mapped_column(default=0)


class Group(OfProject):
    """A model group: immutable members, under a version."""

    __tablename__ = "groups"
    __table_args__ = (UniqueConstraint("history_id", "version_id"),)

    type: Mapped[str]
    base_model_id: Mapped[str | None] = mapped_column(index=True)
    custom_metadata: Mapped[list[Json]] = mapped_column(default=list)
    history_id: Mapped[str | None] = mapped_column(ForeignKey("version_histories.id"))
    version_id: Mapped[int] = mapped_column(default=1)
    version_label: Mapped[str | None]
    create_type: Mapped[str]
    source_group_id: Mapped[str | None]
    artifact_digest: Mapped[str | None] = mapped_column(ForeignKey("artifacts.digest"))


class GroupMember(Table):
    __tablename__ = "group_members"
    __table_args__ = (
        UniqueConstraint("group_id", "inference_key"),
        Index("ix_group_members_model_id", "model_id"),
    )

    group_id: Mapped[str] = mapped_column(
        ForeignKey("groups.id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    inference_key: Mapped[str | None]
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    unused: Mapped[Json] = mapped_column(default=dict)


class Deployment(OfProject):
    """A group on a machine. The `wanted_…` columns are desired state, written by the API; the others
    are what the gateway that owns it has brought about.
    """

    __tablename__ = "deployments"

    gateway: Mapped[str] = mapped_column(index=True)
    """The name of the gateway that runs it."""
    url: Mapped[str]
    configuration: Mapped[Json]
    wanted_state: Mapped[str]
    """ACTIVE, INACTIVE or DELETED."""
    wanted_group_id: Mapped[str] = mapped_column(ForeignKey("groups.id"), index=True)
    update_type: Mapped[str | None]
    group_id: Mapped[str | None] = mapped_column(ForeignKey("groups.id"), index=True)
    """What is served, or was last."""
    served_configuration: Mapped[Json | None]
    """The configuration that it is served with, or was last."""
    previous_group_id: Mapped[str | None] = mapped_column(ForeignKey("groups.id"))
    """What a rollback returns to."""
    work_request_id: Mapped[str | None]
    """The work that is under way."""
    model_states: Mapped[Json] = mapped_column(default=dict)
    """By model id: `{"state": …, "message": …}`."""


class WorkRequest(Table):
    __tablename__ = "work_requests"

    id: Mapped[str] = mapped_column(primary_key=True)
    operation_type: Mapped[str]
    status: Mapped[str]
    compartment_id: Mapped[str] = mapped_column(index=True)
    resource_id: Mapped[str] = mapped_column(index=True)
    entity_type: Mapped[str]
    action_type: Mapped[str]
    percent_complete: Mapped[float] = mapped_column(default=0.0)
    time_accepted: Mapped[datetime] = mapped_column(index=True)
    time_started: Mapped[datetime | None]
    time_finished: Mapped[datetime | None]
    revision: Mapped[int] = mapped_column(default=1)


class WorkRequestLine(Table):
    """A line of a work request's log, or, with a code, one of its errors."""

    __tablename__ = "work_request_lines"

    number: Mapped[int] = mapped_column(primary_key=True)
    work_request_id: Mapped[str] = mapped_column(
        ForeignKey("work_requests.id", ondelete="CASCADE"), index=True
    )
    code: Mapped[str | None]
    message: Mapped[str] = mapped_column(Text)
    time: Mapped[datetime]


class RetryToken(Table):
    """The first answer to a request with this token, for a client that asks again."""

    __tablename__ = "retry_tokens"

    token: Mapped[str] = mapped_column(primary_key=True)
    """The client's, prefixed by who it is and what it asked for."""
    body_sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[int]
    headers: Mapped[Json]
    body: Mapped[str] = mapped_column(Text)
    time_created: Mapped[datetime] = mapped_column(index=True)
