"""The `server` section of the configuration, and what all sections have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

LocalPath = Annotated[str, StringConstraints(min_length=1)]


class Section(BaseModel):
    """A part of the file: immutable, without unknown keys, without silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ServerSettings(Section):
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    drain_seconds: float = Field(
        30.0, ge=0, le=3600,
        description="After SIGTERM, how long running answers may still take.",
    )  # fmt: skip
    max_body_mib: int = Field(16, ge=1, le=1024, description="Largest request body, in MiB.")
    predict_max_body_mib: int = Field(
        10, ge=1, le=1024, description="Largest request body of a deployment's `predict`, in MiB."
    )
    predict_timeout_seconds: float = Field(
        60, gt=0, le=3600,
        description="How long a deployment's `predict` may take, unless it streams.",
    )  # fmt: skip
    store: bool = Field(
        False,
        description="Run what is deployed in the store, too, and offer the API under /20190101; then "
        "a file needs no groups.",
    )
    database: str | None = Field(
        None,
        description="SQLAlchemy URL of the store's database. By default an SQLite file beside the "
        "artifacts.",
    )
    data: LocalPath | None = Field(
        None,
        description="Folder of the store. By default `$STACKSERVE_DATA`, else "
        "`~/.local/share/stackserve`.",
    )
    gateway: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")] = Field(
        "gateway",
        description="Name of this server among those that share a database: each runs its own "
        "deployments.",
    )
    public_url: str | None = Field(
        None, description="Where clients reach this server; by default http://<host>:<port>."
    )
    local_folders: tuple[LocalPath, ...] = Field(
        (), strict=False,
        description="Folders below which models may be registered where they are, by who may use the "
        "API.",
    )  # fmt: skip
