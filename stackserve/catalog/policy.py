"""What a group's custom metadata tell stackserve: the engine's settings, and how traffic is spread.

They are part of the immutable group, so going back to an earlier one restores weights and policy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from stackserve.engine_settings import EngineSettings
from stackserve.errors import InvalidParameter
from stackserve.model_settings import Key
from stackserve.server_settings import Section
from stackserve.settings import MOST_PARTS, PartWeight

METADATA = "modelGroupDetails.customMetadataList"
ENGINE, TRAFFIC = "stackserve.engine", "stackserve.traffic"

S = TypeVar("S", bound=Section)


class MemberTerms(Section):
    """How a member is kept and served."""

    residency: Literal["pinned", "warm"] = Field("warm", alias="class")
    share: float = Field(1, gt=0, le=1000)


class AliasTerms(Section):
    """A key that stands for members, each for a part of its requests."""

    members: dict[Key, PartWeight] = Field(min_length=1, max_length=MOST_PARTS)
    shadow: Key | None = None


class Traffic(Section):
    aliases: dict[Key, AliasTerms] = Field({}, max_length=500)
    members: dict[Key, MemberTerms] = Field({}, max_length=500)


def read_engine(metadata: Sequence[Mapping[str, Any]]) -> EngineSettings:
    """Raises InvalidParameter."""
    return _read(metadata, ENGINE, EngineSettings)


def read_traffic(metadata: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Traffic:
    """The traffic policy of a group whose members have these keys. Raises InvalidParameter."""
    traffic = _read(metadata, TRAFFIC, Traffic)
    known = set(keys)
    for key in traffic.members:
        if key not in known:
            raise _no_member(f"members.{key}", key)
    for name, alias in traffic.aliases.items():
        if name in known:
            raise InvalidParameter(
                f"{METADATA}: {TRAFFIC}: aliases.{name} is the key of a member; take another"
            )
        named = (*alias.members, *((alias.shadow,) if alias.shadow else ()))
        for key in named:
            if key not in known:
                raise _no_member(f"aliases.{name}", key)
    return traffic


def _no_member(place: str, key: str) -> InvalidParameter:
    return InvalidParameter(
        f"{METADATA}: {TRAFFIC}: {place}: no member of the group has the key {key}"
    )


def _read(metadata: Sequence[Mapping[str, Any]], key: str, kind: type[S]) -> S:
    value = next((entry.get("value") for entry in metadata if entry["key"] == key), None)
    if not value:
        return kind()
    try:
        return kind.model_validate_json(value)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise InvalidParameter(
            f"{METADATA}: {key}: {place + ': ' if place else ''}{problem['msg']}"
        ) from None


def environment_of(metadata: Sequence[Mapping[str, Any]]) -> str:
    """The custom metadata as OCI gives them to a runtime, in `OCI_MODEL_GROUP_CUSTOM_METADATA`."""
    return json.dumps(list(metadata))
