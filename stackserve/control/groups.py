"""A stacked group as it will be served: its base and every member read and validated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from stackserve.adapters import (
    AdapterLimits,
    AdapterSource,
    BaseArchitecture,
    Composite,
    Part,
    ValidatedAdapter,
)
from stackserve.adapters.composite import part_refused
from stackserve.errors import ArtifactRejected
from stackserve.model_settings import ModelSettings
from stackserve.settings import LORA_RANKS, GroupSettings, MemberSettings
from stackserve.types import Refusal

MIB = 2**20

Admit = Callable[[AdapterSource, BaseArchitecture, AdapterLimits], ValidatedAdapter]
"""Validates an adapter: `AdapterStore.import_adapter` to serve, `validate_source` to check."""

VERSION_DIGITS = 12


@dataclass(frozen=True)
class Member:
    """An adapter that will be served."""

    key: str
    model_id: str
    adapter: ValidatedAdapter
    share: float = 1.0
    pinned: bool = False


@dataclass(frozen=True)
class StackedGroup:
    """A base with the adapters that may be served on it, and those that may not."""

    settings: GroupSettings
    base_folder: Path
    base: BaseArchitecture
    members: tuple[Member, ...]
    refused: tuple[Refusal, ...]

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def base_model_id(self) -> str:
        return self.settings.model_id_of(self.settings.base)

    @cached_property
    def version(self) -> str:
        """A name for exactly this content: equal base, members, keys and engine, equal version.

        Kept once made: every target carries it, and making it costs a walk over all members.
        """
        content = {
            "name": self.name,
            "base": [self.base.fingerprint, self.settings.base.key, self.base_model_id],
            "members": [(m.key, m.model_id, m.adapter.digest) for m in self.members],
            "engine": self.settings.engine.model_dump(mode="json"),
        }
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:VERSION_DIGITS]


def read_group(
    settings: GroupSettings,
    locate: Callable[[str], Path],
    admit: Admit,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> StackedGroup:
    """Read the base and admit every adapter; a bad adapter is refused, not fatal.

    `locate` turns a path as written into a folder. Raises ArtifactRejected for a bad base.
    Costs one read of every adapter's bytes, and of the parts' for a composite that is new.
    """
    base_folder = locate(settings.base.path)
    base = BaseArchitecture.from_folder(base_folder)
    limits = limits_of(settings)
    admitted: dict[str, ValidatedAdapter] = {}
    refused: dict[str, Refusal] = {}
    composites_last = sorted(settings.members, key=lambda member: member.path is None)
    for done, member in enumerate(composites_last):
        progress(done, len(settings.members))
        try:
            source = _source(member, locate, admitted, refused)
            admitted[member.key] = admit(source, base, limits)
        except ArtifactRejected as error:
            refused[member.key] = refusal(settings, member, error.code, error.message)
    members = tuple(
        Member(
            member.key,
            settings.model_id_of(member),
            admitted[member.key],
            member.share,
            member.pinned,
        )
        for member in settings.members
        if member.key in admitted
    )
    in_order = tuple(refused[m.key] for m in settings.members if m.key in refused)
    return StackedGroup(settings, base_folder, base, members, in_order)


def _source(
    member: MemberSettings,
    locate: Callable[[str], Path],
    admitted: Mapping[str, ValidatedAdapter],
    refused: Mapping[str, Refusal],
) -> AdapterSource:
    """A member's folder, or its parts, which were admitted or refused before it."""
    if member.path is not None:
        return locate(member.path)
    weights = member.adapters or {}
    for key in weights:
        if key in refused:
            raise part_refused(key, refused[key].code, refused[key].message)
    return Composite(tuple(Part(key, weight, admitted[key]) for key, weight in weights.items()))


def limits_of(settings: GroupSettings) -> AdapterLimits:
    """What the group's engine settings allow an adapter to be."""
    if settings.engine.runtime == "transformers":
        return AdapterLimits(
            max_rank=LORA_RANKS[-1],
            max_bytes=settings.engine.max_adapter_mib * MIB,
            any_kind=True,
        )
    rank = settings.engine.max_rank
    return AdapterLimits(
        max_rank=LORA_RANKS[-1] if rank == "auto" else rank,
        max_bytes=settings.engine.max_adapter_mib * MIB,
    )


def refusal(settings: GroupSettings, member: ModelSettings, code: str, message: str) -> Refusal:
    """The record of a member that is not served."""
    return Refusal(settings.name, member.key, settings.model_id_of(member), code, message)
