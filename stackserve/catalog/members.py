"""The members of a group: the rules that every list of them keeps, and the patches of a clone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stackserve.errors import InvalidParameter
from stackserve.types import KEY_PATTERN

MOST_MEMBERS = 500
INSERT, REMOVE = "INSERT", "REMOVE"


@dataclass(frozen=True)
class MemberEntry:
    """A model in a group. Without a key it is known by its id alone. `unused` is what else was sent."""

    model_id: str
    key: str | None = None
    unused: dict[str, Any] = field(default_factory=dict, compare=False)
    place: str | None = field(default=None, compare=False)
    """Its name on the wire, when the request at hand has it."""


@dataclass(frozen=True)
class Patch:
    """An instruction of a clone; `place` is where it stands in the request."""

    operation: str
    members: tuple[MemberEntry, ...]
    place: str


def check_members(members: Sequence[MemberEntry], place: str) -> None:
    """Raises InvalidParameter for a list that no group can have; `place` is its name on the wire."""
    if not 1 <= len(members) <= MOST_MEMBERS:
        raise InvalidParameter(f"{place} has {len(members)} members; give 1 to {MOST_MEMBERS}")
    owners: dict[str, str] = {}
    models: set[str] = set()
    for number, member in enumerate(members):
        where = member.place or f"{place}.{number}"
        _check_key(member.key, f"{where}.inferenceKey")
        if member.model_id in models:
            raise InvalidParameter(
                f"{where}.modelId is {member.model_id}, which is a member before; name a model once"
            )
        models.add(member.model_id)
        if member.key is None:
            continue
        if (owner := owners.setdefault(member.key, member.model_id)) != member.model_id:
            raise InvalidParameter(
                f"{where}.inferenceKey is {member.key}, the key of {owner} too; each has its own"
            )


def _check_key(key: str | None, where: str) -> None:
    if key is not None and not KEY_PATTERN.fullmatch(key):
        raise InvalidParameter(
            f"{where} is {key[:64]!r}; take 1 to 32 of A-Z a-z 0-9 . _ - that begin with a letter or digit"
        )


def with_base(
    members: tuple[MemberEntry, ...], base_model_id: str
) -> tuple[tuple[MemberEntry, ...], bool]:
    """The members of a stacked group, the base among them, and whether it had to be added."""
    if any(member.model_id == base_model_id for member in members):
        return members, False
    return (MemberEntry(base_model_id), *members), True


def patched(
    members: Sequence[MemberEntry], patches: Sequence[Patch], base_model_id: str | None
) -> tuple[MemberEntry, ...]:
    """The members after the patches, in their order. Raises InvalidParameter."""
    found = {member.model_id: member for member in members}
    for patch in patches:
        for number, member in enumerate(patch.members):
            where = f"{patch.place}.values.{number}"
            if patch.operation == INSERT:
                if member.model_id in found:
                    raise InvalidParameter(
                        f"{where}.modelId: {member.model_id} is a member already; remove it first to "
                        "give it another key"
                    )
                found[member.model_id] = member
            else:
                _check_removal(found.get(member.model_id), member, base_model_id, where)
                del found[member.model_id]
    return tuple(found.values())


def _check_removal(
    present: MemberEntry | None, member: MemberEntry, base_model_id: str | None, where: str
) -> None:
    if present is None:
        raise InvalidParameter(f"{where}.modelId: {member.model_id} is not a member")
    if member.key is not None and member.key != present.key:
        raise InvalidParameter(
            f"{where}.inferenceKey is {member.key}, and that of {member.model_id} is {present.key}"
        )
    if member.model_id == base_model_id:
        raise InvalidParameter(
            f"{where}.modelId: {member.model_id} is the base of the group, which a clone keeps"
        )
