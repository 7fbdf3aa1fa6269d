"""The `server` section of the configuration, and what all sections have in common."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

LocalPath = Annotated[str, StringConstraints(min_length=1)]


class Section(BaseModel):
    """A part of the file: immutable, without unknown keys, without silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class PublicKeySettings(Section):
    """Whose request signatures are taken."""

    key_id: Annotated[
        str, StringConstraints(pattern=r'^[^/\s"]+/[^/\s"]+/([0-9a-f]{2}:){15}[0-9a-f]{2}$')
    ] = Field(
        description="`<tenancy OCID>/<user OCID>/<fingerprint>`, as in the client's OCI config."
    )
    path: LocalPath = Field(description="PEM file of the RSA public key, relative to this file.")


class BearerKeySettings(Section):
    """A key of which only the digest is known here; `stackserve key NAME` makes one."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")] = Field(
        description="Who has it: 1 to 64 of A-Z a-z 0-9 . _ @ -"
    )
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] = Field(
        description="SHA-256 of the key: 64 of 0-9 a-f."
    )


class AuthSettings(Section):
    """Who may use this server."""

    mode: Literal["none", "oci", "bearer"] = Field(
        "none",
        description="`none` lets everybody in, `oci` who signs requests or has a bearer key, `bearer` "
        "who has a bearer key.",
    )
    public_keys: tuple[PublicKeySettings, ...] = Field(
        (), strict=False, max_length=10_000,
        description="Keys that requests may be signed with.",
    )  # fmt: skip
    bearer_keys: tuple[BearerKeySettings, ...] = Field(
        (), strict=False, max_length=10_000,
        description="Keys that may be sent as `Authorization: Bearer`.",
    )  # fmt: skip
    clock_skew_seconds: float = Field(
        300, gt=0, le=86_400,
        description="How far the date of a signed request may be from this machine's clock.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _has_the_keys_of_its_mode(self) -> AuthSettings:
        why = None
        if self.mode == "oci" and not self.public_keys:
            why = "mode oci needs public_keys; name one at least"
        elif self.mode == "bearer" and not self.bearer_keys:
            why = "mode bearer needs bearer_keys; `stackserve key NAME` makes one"
        elif self.mode == "bearer" and self.public_keys:
            why = "mode bearer takes no signatures; leave public_keys out, or set mode oci"
        elif "mode" not in self.model_fields_set and (self.public_keys or self.bearer_keys):
            why = "there are keys and no mode; set mode to oci or bearer, or to none to use no keys"
        if why is not None:
            raise PydanticCustomError("mode", "{why}", {"why": why})
        return self

    @model_validator(mode="after")
    def _keys_are_unique(self) -> AuthSettings:
        for option, values in (
            ("public_keys", [key.key_id for key in self.public_keys]),
            ("bearer_keys", [key.name for key in self.bearer_keys]),
            ("bearer_keys", [key.sha256 for key in self.bearer_keys]),
        ):
            repeated = [value for value, times in Counter(values).items() if times > 1]
            if repeated:
                raise PydanticCustomError(
                    "repeated",
                    "{option} has {value} more than once; keep one",
                    {"option": option, "value": repeated[0]},
                )
        return self


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
    auth: AuthSettings = Field(AuthSettings(), description="Who may use this server.")
