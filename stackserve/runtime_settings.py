"""The `groups` of the kinds homogeneous and heterogeneous: models of other frameworks than vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, JsonValue, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from stackserve.model_settings import ModelSettings, NamedGroup
from stackserve.server_settings import LocalPath, Section

RuntimeName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")]

MOST_MEMBERS = 500


class BatchingSettings(Section):
    """How requests of one model are computed together."""

    max_rows: int = Field(
        64, ge=1, le=65_536, description="Rows computed at once; 1 computes each request alone."
    )
    max_delay_ms: float = Field(
        0, ge=0, le=1000,
        description="How long a request waits for others to be computed with, unless it is alone.",
    )  # fmt: skip


class RuntimeMemberSettings(ModelSettings):
    """A model of a homogeneous or heterogeneous group."""

    path: LocalPath | None = Field(
        None,
        description="Folder of the model, absolute or relative to this file. Required unless "
        "`versions` is given.",
    )
    versions: dict[Version, LocalPath] | None = Field(
        None, min_length=1, max_length=32,
        description="In place of `path`: folders by version; the last one is asked where a request "
        "names no version.",
    )  # fmt: skip
    runtime: RuntimeName | None = Field(
        None, description="Which runtime loads it. By default found by its files."
    )
    options: dict[str, JsonValue] = Field(
        {}, description="Options of its runtime; docs/runtimes.md lists them."
    )
    pinned: bool = Field(False, description="Loaded at the start, and always kept.")
    batching: BatchingSettings | None = Field(
        None, description="In place of the group's `batching`."
    )

    @model_validator(mode="after")
    def _has_one_source(self) -> RuntimeMemberSettings:
        if (self.path is None) == (self.versions is None):
            raise PydanticCustomError(
                "one_source", "give either `path`, the folder of a model, or `versions`"
            )
        return self

    @property
    def folders(self) -> dict[str, str]:
        """By version."""
        return dict(self.versions) if self.versions else {"1": self.path or ""}


class WorkerSettings(Section):
    """The process of one runtime."""

    python: LocalPath | None = Field(
        None,
        description="Interpreter of the virtual environment that has the framework, numpy and msgspec. By "
        "default the server's own.",
    )
    lanes: int = Field(
        2, ge=1, le=64, description="Requests, or batches of them, computed at once."
    )
    threads: int = Field(1, ge=1, le=256, description="Threads that one of them may use.")
    loaders: int = Field(2, ge=1, le=16, description="Models loaded at once.")
    memory_mib: int | None = Field(
        None, ge=64, description="The process may not have more data than this."
    )
    start_timeout_seconds: float = Field(
        120, gt=0, description="A worker that is not ready by then is restarted."
    )


class RuntimeGroupSettings(NamedGroup):
    """A group of models that are no LLM's adapters."""

    kind: Literal["homogeneous", "heterogeneous"] = Field(
        description="`homogeneous`: models of one framework in one worker process; `heterogeneous`: one "
        "worker process for each framework."
    )
    runtime: RuntimeName | None = Field(
        None, description="Of a homogeneous group: the runtime of all its models."
    )
    members: tuple[RuntimeMemberSettings, ...] = Field(
        strict=False, min_length=1, max_length=MOST_MEMBERS, description="The models."
    )
    memory_mib: int = Field(
        1024, ge=1,
        description="Memory for loaded models, in MiB. What was not asked for longest makes room.",
    )  # fmt: skip
    idle_seconds: float | None = Field(
        None, gt=0, description="A model that nobody asks for so long is unloaded."
    )
    batching: BatchingSettings = Field(
        BatchingSettings(), description="How requests are computed together."
    )
    workers: dict[RuntimeName, WorkerSettings] = Field(
        {}, description="By runtime: how its process runs."
    )
    timeout_seconds: float = Field(
        60, gt=0, le=3600,
        description="For an answer, the loading of the model included. A computation that takes longer "
        "is ended together with its worker.",
    )  # fmt: skip
    max_in_flight: int = Field(
        256, ge=1, le=100_000,
        description="Requests taken at once, running and queued; more are answered 429.",
    )  # fmt: skip
    allow_unsafe_formats: bool = Field(
        False,
        description="Load formats that can run code, such as pickle. Only for files that you made.",
    )

    @model_validator(mode="after")
    def _one_runtime_if_homogeneous(self) -> RuntimeGroupSettings:
        named = {member.runtime for member in self.members if member.runtime}
        if self.kind == "heterogeneous" and self.runtime is not None:
            raise PydanticCustomError(
                "runtime", "runtime is of a homogeneous group; name it in the members"
            )
        if self.kind == "homogeneous" and len(named | ({self.runtime} - {None})) > 1:
            raise PydanticCustomError(
                "runtime",
                "a homogeneous group has models of one runtime, and here are {names}; make it "
                "heterogeneous",
                {"names": ", ".join(sorted(named | ({self.runtime or ""} - {""})))},
            )
        return self

    @property
    def models(self) -> tuple[RuntimeMemberSettings, ...]:
        return self.members

    @property
    def names(self) -> Iterator[str]:
        """All that a client may call one of its models."""
        for model in self.members:
            yield from self.names_of(model)
