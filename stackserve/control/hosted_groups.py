"""A group of models of other frameworks as it will be served: every member found, and its runtime known."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stackserve.errors import ArtifactRejected
from stackserve.hosting.host import HostPlan
from stackserve.hosting.models import ModelSource, stamp_of
from stackserve.hosting.process import ProcessPlan
from stackserve.runtime_settings import (
    BatchingSettings,
    RuntimeGroupSettings,
    RuntimeMemberSettings,
    WorkerSettings,
)
from stackserve.runtimes.base import ModelRefused
from stackserve.runtimes.formats import runtime_of
from stackserve.runtimes.protocol import Batching
from stackserve.types import Refusal, Target

MIB = 1 << 20
VERSION_DIGITS = 12

Locate = Callable[[str], Path]


@dataclass(frozen=True)
class HostedGroup:
    """The models that may be served, and the members that may not."""

    settings: RuntimeGroupSettings
    sources: tuple[ModelSource, ...]
    """One for each version of each member."""
    refused: tuple[Refusal, ...]

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def version(self) -> str:
        """A name for exactly this content."""
        content = repr([(s.key, s.version, s.stamp, s.runtime, s.options) for s in self.sources])
        return hashlib.sha256(content.encode()).hexdigest()[:VERSION_DIGITS]

    def targets(self) -> tuple[Target, ...]:
        """What its names mean."""
        served = {source.key for source in self.sources}
        return tuple(
            Target(
                group=self.name,
                version=self.version,
                key=member.key,
                model_id=self.settings.model_id_of(member),
                worker_model=member.key,
                adapter_sha256=None,
                parent=None,
            )
            for member in self.settings.members
            if member.key in served
        )


def read_hosted(
    settings: RuntimeGroupSettings,
    locate: Locate,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> HostedGroup:
    """Look at every member's files; a member that cannot be served is refused, not fatal."""
    sources: list[ModelSource] = []
    refused: list[Refusal] = []
    for done, member in enumerate(settings.members):
        progress(done, len(settings.members))
        try:
            sources += [
                _source(settings, member, version, locate(path))
                for version, path in member.folders.items()
            ]
        except (ArtifactRejected, ModelRefused) as error:
            model_id = settings.model_id_of(member)
            refused.append(Refusal(settings.name, member.key, model_id, error.code, error.message))
    return _of_one_runtime(HostedGroup(settings, tuple(sources), tuple(refused)))


def _source(
    settings: RuntimeGroupSettings, member: RuntimeMemberSettings, version: str, folder: Path
) -> ModelSource:
    if not folder.is_dir():
        raise ArtifactRejected("folder_missing", f"{folder} is not a folder")
    stamp = stamp_of(folder)
    if not stamp:
        raise ArtifactRejected("file_unreadable", f"{folder} has no files that can be read")
    return ModelSource(
        key=member.key,
        version=version,
        folder=folder,
        runtime=member.runtime or settings.runtime or runtime_of(folder),
        stamp=stamp,
        options=member.options,
        batching=_batching(member.batching or settings.batching),
        pinned=member.pinned,
    )


def _of_one_runtime(group: HostedGroup) -> HostedGroup:
    """Of a homogeneous group, refuse the members whose files are of another runtime than the first."""
    if group.settings.kind != "homogeneous" or not group.sources:
        return group
    runtime = group.settings.runtime or group.sources[0].runtime
    others = {source.key: source.runtime for source in group.sources if source.runtime != runtime}
    ids = {member.key: group.settings.model_id_of(member) for member in group.settings.members}
    refused = tuple(
        Refusal(
            group.name,
            key,
            ids[key],
            "other_runtime",
            f"it is of the runtime {other}, and the group is homogeneous, of {runtime}; make the group "
            "heterogeneous",
        )
        for key, other in others.items()
    )
    kept = tuple(source for source in group.sources if source.key not in others)
    return HostedGroup(group.settings, kept, (*group.refused, *refused))


def _batching(settings: BatchingSettings) -> Batching:
    return Batching(settings.max_rows, settings.max_delay_ms / 1000)


def host_plan(group: HostedGroup, locate: Locate, scratch: Path, most_body: int) -> HostPlan:
    """How the group's models are kept: a worker for each runtime that one of them needs."""
    settings = group.settings
    runtimes = dict.fromkeys(source.runtime for source in group.sources)
    return HostPlan(
        group=group.name,
        budget=settings.memory_mib * MIB,
        workers={
            runtime: _process_plan(
                runtime,
                settings.workers.get(runtime, WorkerSettings()),
                locate,
                scratch,
                most_body,
                allow_unsafe=settings.allow_unsafe_formats,
            )
            for runtime in runtimes
        },
        idle_seconds=settings.idle_seconds,
        infer_seconds=settings.timeout_seconds,
    )


def _process_plan(
    runtime: str,
    settings: WorkerSettings,
    locate: Locate,
    scratch: Path,
    most_body: int,
    *,
    allow_unsafe: bool,
) -> ProcessPlan:
    return ProcessPlan(
        runtime=runtime,
        python=_interpreter(settings.python, locate) if settings.python else sys.executable,
        scratch=scratch,
        lanes=settings.lanes,
        loaders=settings.loaders,
        threads=settings.threads,
        memory_bytes=settings.memory_mib * MIB if settings.memory_mib else None,
        most_body=most_body,
        allow_unsafe=allow_unsafe,
        start_seconds=settings.start_timeout_seconds,
    )


def _interpreter(written: str, locate: Locate) -> str:
    """Its own link is not followed: it tells which virtual environment is meant."""
    path = Path(written)
    return str(locate(str(path.parent)) / path.name)
