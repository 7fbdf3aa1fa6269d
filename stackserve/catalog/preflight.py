"""What can be known of a stacked group before any engine is started: whether its adapters fit its base,
and what the stack will cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from stackserve.adapters import BaseArchitecture, check_fit
from stackserve.adapters.served_modules import served_modules
from stackserve.catalog.artifacts import MOST_ADAPTER, Shelf
from stackserve.errors import ArtifactRejected
from stackserve.settings import LORA_RANKS, MOST_SLOTS_BY_DEFAULT
from stackserve.store.kinds import ArtifactKind
from stackserve.store.tables import Artifact

ELEMENT_BYTES = {"F32": 4}
"""Of a slot's numbers; the others have two."""


@dataclass(frozen=True)
class MemberArtifact:
    """A member as it is checked: where it stands in the request, and what it consists of."""

    place: str
    model_id: str
    artifact: Artifact | None


@dataclass(frozen=True)
class Finding:
    """Why a group cannot be: the field at fault, a stable code, a sentence."""

    field: str
    code: str
    message: str


@dataclass(frozen=True)
class StackCost:
    """What an engine will hold for the adapters of a group."""

    slot_rank: int
    slot_bytes: int
    """On the device, for one slot."""
    slots: int
    device_bytes: int
    adapter_bytes: int
    """In host memory, when all adapters are there."""


@dataclass(frozen=True)
class Preflight:
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    cost: StackCost | None


def check_stacked(
    base: MemberArtifact, adapters: Sequence[MemberArtifact], shelf: Shelf
) -> Preflight:
    """Check a base and the adapters on it. Reads headers only, each pair of contents once."""
    wrong = _wrong_kind(base, ArtifactKind.BASE)
    if wrong is not None or base.artifact is None:
        return Preflight((wrong,) if wrong else (), (), None)
    try:
        foundation = _foundation(base.artifact, shelf)
    except ArtifactRejected as error:
        return Preflight((Finding(base.place, error.code, error.message),), (), None)
    findings = [
        finding for each in adapters if (finding := _check_adapter(foundation, each, shelf))
    ]
    fitting = [each.artifact for each in adapters if each.artifact is not None]
    cost = _cost(foundation.architecture, fitting) if not findings else None
    return Preflight(tuple(findings), tuple(_notes(adapters)), cost)


@dataclass(frozen=True)
class _Foundation:
    """A base that can carry adapters, looked at once for all of them."""

    folder: Path
    architecture: BaseArchitecture


def _foundation(base: Artifact, shelf: Shelf) -> _Foundation:
    """Raises ArtifactRejected."""
    folder = shelf.folder(base)
    architecture = _architecture(folder, base.facts["fingerprint"])
    served_modules(architecture)
    return _Foundation(folder, architecture)


@lru_cache(maxsize=64)
def _architecture(folder: Path, fingerprint: str) -> BaseArchitecture:
    return BaseArchitecture.from_folder(folder)


@lru_cache(maxsize=100_000)
def _misfit(adapter: Path, base: Path, fingerprint: str) -> tuple[str, str] | None:
    """The code and sentence of why an adapter does not fit. Artifacts never change, so asked once."""
    try:
        check_fit(adapter, _architecture(base, fingerprint), MOST_ADAPTER)
    except ArtifactRejected as error:
        return error.code, error.message
    return None


def _check_adapter(base: _Foundation, adapter: MemberArtifact, shelf: Shelf) -> Finding | None:
    wrong = _wrong_kind(adapter, ArtifactKind.ADAPTER)
    if wrong is not None or adapter.artifact is None:
        return wrong
    try:
        folder = shelf.folder(adapter.artifact)
        misfit = _misfit(folder, base.folder, base.architecture.fingerprint)
    except ArtifactRejected as error:
        misfit = error.code, error.message
    return Finding(adapter.place, *misfit) if misfit else None


def _wrong_kind(member: MemberArtifact, wanted: ArtifactKind) -> Finding | None:
    if member.artifact is None:
        message = f"model {member.model_id} has no artifact; upload one first"
        return Finding(member.place, "artifact_missing", message)
    if member.artifact.kind != wanted:
        message = (
            f"model {member.model_id} is of the kind {member.artifact.kind}, and here a stacked group "
            f"has a model of the kind {wanted}"
        )
        return Finding(member.place, "wrong_kind", message)
    return None


def _cost(base: BaseArchitecture, adapters: Sequence[Artifact]) -> StackCost:
    largest = max((int(each.facts["rank"]) for each in adapters), default=0)
    rank = next(each for each in LORA_RANKS if each >= largest)
    served = served_modules(base)
    width = sum(sum(shape) for name, shape in base.modules.items() if served.serves(name))
    slot_bytes = rank * width * ELEMENT_BYTES.get(base.dtype, 2) if adapters else 0
    slots = min(len(adapters), MOST_SLOTS_BY_DEFAULT)
    return StackCost(
        slot_rank=rank if adapters else 0,
        slot_bytes=slot_bytes,
        slots=slots,
        device_bytes=slots * slot_bytes,
        adapter_bytes=sum(int(each.facts["size_bytes"]) for each in adapters),
    )


def _notes(adapters: Sequence[MemberArtifact]) -> list[str]:
    first: dict[str, str] = {}
    notes = []
    for each in adapters:
        if each.artifact is not None:
            owner = first.setdefault(each.artifact.digest, each.model_id)
            if owner != each.model_id:
                notes.append(f"{each.place}: {each.model_id} has the same bytes as {owner}")
    return notes
