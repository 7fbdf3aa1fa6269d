"""A group of the store as the settings of a running one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from stackserve.catalog.artifacts import Shelf, find_artifact
from stackserve.catalog.policy import MemberTerms, Traffic, read_engine, read_traffic
from stackserve.catalog.resources import find
from stackserve.control.desired import Content
from stackserve.engine_settings import EngineSettings
from stackserve.errors import InvalidParameter
from stackserve.settings import (
    AliasSettings,
    BaseSettings,
    GroupSettings,
    MemberSettings,
)
from stackserve.store.tables import Group, GroupMember, Model

OPTION = "STACKSERVE_"
"""Environment variables of a deployment that begin so are options of the engine, in capitals."""


def settings_of(shelf: Shelf, session: Session, name: str, content: Content) -> GroupSettings:
    """Where the artifacts of a group are, and how its engine runs.

    Raises ArtifactRejected for artifacts that are damaged or gone, InvalidParameter for options.
    """
    group = find(session, Group, content.group_id)
    query = select(GroupMember, Model).join(Model, Model.id == GroupMember.model_id)
    rows = session.execute(
        query.where(GroupMember.group_id == group.id).order_by(GroupMember.position)
    ).all()
    keys = [member.inference_key for member, _ in rows if member.inference_key]
    traffic = read_traffic(group.custom_metadata, keys)
    base, members = None, []
    for member, model in rows:
        folder = str(shelf.folder(find_artifact(session, model.artifact_digest, model.id)))
        key = member.inference_key or unnamed_key(model.id)
        if model.id == group.base_model_id:
            base = BaseSettings(key=key, path=folder, model_id=model.id)
        else:
            members.append(_member(key, folder, model.id, traffic))
    assert base is not None, "a stacked group has its base among its members"
    engine = _with_options(read_engine(group.custom_metadata), dict(content.environment))
    try:
        return GroupSettings(
            name=name,
            base=base,
            members=tuple(members),
            aliases=tuple(
                AliasSettings(key=key, members=terms.members, shadow=terms.shadow)
                for key, terms in traffic.aliases.items()
            ),
            engine=engine,
        )
    except ValidationError as error:
        raise InvalidParameter(f"group {group.id}: {error.errors()[0]['msg']}") from None


def unnamed_key(model_id: str) -> str:
    """What a member without an inference key is called inside: its id is too long for a key."""
    return f"m-{hashlib.sha256(model_id.encode()).hexdigest()[:30]}"


def _member(key: str, folder: str, model_id: str, traffic: Traffic) -> MemberSettings:
    terms = traffic.members.get(key, MemberTerms())
    pinned = terms.residency == "pinned"
    return MemberSettings(key=key, path=folder, model_id=model_id, share=terms.share, pinned=pinned)


def _with_options(engine: EngineSettings, variables: Mapping[str, str]) -> EngineSettings:
    """`STACKSERVE_MAX_MODEL_LEN: "4096"` sets `max_model_len`; other variables are not ours."""
    options: dict[str, Any] = {
        name.removeprefix(OPTION).lower(): value
        for name, value in variables.items()
        if name.startswith(OPTION)
    }
    try:
        return EngineSettings.model_validate(
            {**engine.model_dump(exclude_unset=True), **options}, strict=False
        )
    except ValidationError as error:
        problem = error.errors()[0]
        option = (
            OPTION + str(problem["loc"][0]).upper() if problem["loc"] else "environmentVariables"
        )
        why = problem["msg"]
        if problem["type"] == "extra_forbidden":
            why = "the engine has no such option; docs/configuration.md lists them"
        raise InvalidParameter(f"environmentVariables.{option}: {why}") from None
