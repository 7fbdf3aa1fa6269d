"""Deployments: a group that is wanted on a gateway, and what has become of the wish.

What is wanted is written here, at once; the gateway that owns the deployment brings it about
(`control/steward.py`) and writes back how it is. One piece of work at a time: its work request says how
far it is, and until it ends everything but a deletion must wait.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from stackserve.catalog.resources import change, changing, find, find_named, new_resource
from stackserve.catalog.work_requests import Status, accept, begin, cancel, done_at_once, find_work
from stackserve.errors import Conflict, InvalidParameter, NotNow
from stackserve.store.tables import Deployment, Group, WorkRequest


class State(StrEnum):
    """Of a deployment, as OCI names them."""

    CREATING = "CREATING"
    ACTIVE = "ACTIVE"
    UPDATING = "UPDATING"
    NEEDS_ATTENTION = "NEEDS_ATTENTION"
    FAILED = "FAILED"
    INACTIVE = "INACTIVE"
    DELETING = "DELETING"


class Wanted(StrEnum):
    """What a deployment shall be."""

    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"
    DELETED = "DELETED"


class UpdateType(StrEnum):
    LIVE = "LIVE"
    """The same engine; its adapters are exchanged."""
    ZDT = "ZDT"
    """A new engine beside the old one."""


def create_deployment(
    session: Session,
    created_by: str,
    *,
    gateway: str,
    url: str,
    group_id: str,
    configuration: dict[str, Any],
    **columns: Any,
) -> tuple[Deployment, WorkRequest]:
    """Want a group served by a gateway; `url` is the gateway's, to which the id is added.

    Raises InvalidParameter when the group cannot be deployed.
    """
    _deployable(session, group_id)
    deployment = new_resource(
        Deployment,
        "datasciencemodeldeployment",
        created_by,
        State.CREATING,
        gateway=gateway,
        configuration=configuration,
        wanted_state=Wanted.ACTIVE,
        wanted_group_id=group_id,
        model_states={},
        **columns,
    )
    deployment.url = f"{url}/{deployment.id}"
    session.add(deployment)
    work = accept(session, "MODEL_DEPLOYMENT_CREATE", "CREATED", deployment)
    deployment.work_request_id = work.id
    return deployment, work


def update_deployment(
    session: Session,
    identifier: str,
    if_match: str | None,
    changes: dict[str, Any],
    *,
    group_id: str | None = None,
    update_type: UpdateType = UpdateType.ZDT,
    configuration: dict[str, Any] | None = None,
) -> tuple[Deployment, WorkRequest]:
    """Change columns, and what shall be served. Names and tags change at once; another group, or other
    settings of the engine, when the gateway has brought them about.

    Raises NotFound, StaleEtag, NotNow, InvalidParameter, Conflict.
    """
    deployment = _idle(session, identifier, if_match)
    change(deployment, changes)
    regrouped = group_id is not None and group_id != deployment.wanted_group_id
    if not regrouped and configuration in (None, deployment.configuration):
        return deployment, done_at_once(session, "MODEL_DEPLOYMENT_UPDATE", "UPDATED", deployment)
    if regrouped:
        assert group_id is not None
        _check_group_change(session, deployment, group_id, update_type)
    elif update_type is UpdateType.LIVE:
        raise InvalidParameter(
            "modelDeploymentConfigurationDetails.updateType is LIVE, which exchanges the group and "
            "nothing else; give another modelGroupId, or ZDT"
        )
    deployment.wanted_group_id = group_id or deployment.wanted_group_id
    deployment.configuration = configuration or deployment.configuration
    deployment.update_type = update_type
    if deployment.wanted_state == Wanted.INACTIVE:
        # What is not served needs no proof: the next activation serves it.
        served(deployment, deployment.wanted_group_id, deployment.configuration)
        return deployment, done_at_once(session, "MODEL_DEPLOYMENT_UPDATE", "UPDATED", deployment)
    deployment.lifecycle_state = State.UPDATING
    return deployment, _start_work(session, deployment, "MODEL_DEPLOYMENT_UPDATE", "UPDATED")


def rollback_deployment(
    session: Session, identifier: str, if_match: str | None
) -> tuple[Deployment, WorkRequest]:
    """Serve again what was served before, weights and policy: live where the base is the same.

    Raises what `update_deployment` raises, and Conflict when nothing was served before.
    """
    deployment = find(session, Deployment, identifier, lock=True)
    if deployment.previous_group_id is None:
        raise Conflict(
            f"deployment {deployment.id} has served one group only; nothing to return to"
        )
    before = find(session, Group, deployment.previous_group_id)
    now_served = find(session, Group, deployment.wanted_group_id)
    live = before.base_model_id == now_served.base_model_id
    return update_deployment(
        session,
        identifier,
        if_match,
        {},
        group_id=before.id,
        update_type=UpdateType.LIVE if live else UpdateType.ZDT,
        configuration={
            **deployment.configuration,
            "modelGroupConfigurationDetails": {"modelGroupId": before.id},
        },
    )


def activate_deployment(
    session: Session, identifier: str, if_match: str | None
) -> tuple[Deployment, WorkRequest]:
    """Serve it again. Raises NotFound, StaleEtag, NotNow, Conflict."""
    deployment = _idle(session, identifier, if_match)
    if deployment.wanted_state != Wanted.INACTIVE and deployment.lifecycle_state != State.FAILED:
        raise Conflict(f"deployment {identifier} is {deployment.lifecycle_state} already")
    deployment.wanted_state, deployment.lifecycle_state = Wanted.ACTIVE, State.CREATING
    return deployment, _start_work(session, deployment, "MODEL_DEPLOYMENT_ACTIVATE", "UPDATED")


def deactivate_deployment(
    session: Session, identifier: str, if_match: str | None
) -> tuple[Deployment, WorkRequest]:
    """Stop its engine and keep everything else. Raises NotFound, StaleEtag, NotNow, Conflict."""
    deployment = _idle(session, identifier, if_match)
    if deployment.wanted_state == Wanted.INACTIVE:
        raise Conflict(f"deployment {identifier} is INACTIVE already")
    deployment.wanted_state, deployment.lifecycle_state = Wanted.INACTIVE, State.UPDATING
    return deployment, _start_work(session, deployment, "MODEL_DEPLOYMENT_DEACTIVATE", "UPDATED")


def delete_deployment(
    session: Session, identifier: str, if_match: str | None
) -> tuple[Deployment, WorkRequest]:
    """Stop and forget it, whatever is being done to it. Raises NotFound, StaleEtag."""
    deployment = changing(session, Deployment, identifier, if_match)
    if deployment.wanted_state == Wanted.DELETED and deployment.work_request_id:
        return deployment, find_work(session, deployment.work_request_id)
    if under_way := current_work(session, deployment):
        cancel(under_way)
    deployment.wanted_state, deployment.lifecycle_state = Wanted.DELETED, State.DELETING
    return deployment, _start_work(session, deployment, "MODEL_DEPLOYMENT_DELETE", "DELETED")


def current_work(session: Session, deployment: Deployment) -> WorkRequest | None:
    """The work on it that has not ended, locked."""
    if deployment.work_request_id is None:
        return None
    work = find_work(session, deployment.work_request_id, lock=True)
    return None if Status(work.status).is_final else work


def _idle(session: Session, identifier: str, if_match: str | None) -> Deployment:
    """As `changing`, a deployment with nothing under way."""
    deployment = changing(session, Deployment, identifier, if_match)
    if deployment.wanted_state == Wanted.DELETED:
        raise Conflict(f"deployment {identifier} is being deleted")
    if work := current_work(session, deployment):
        raise NotNow(
            f"deployment {identifier} is {deployment.lifecycle_state}: {work.operation_type} is under "
            f"way ({work.id}); wait for it"
        )
    return deployment


def _start_work(
    session: Session, deployment: Deployment, operation: str, action: str
) -> WorkRequest:
    work = accept(session, operation, action, deployment)
    deployment.work_request_id = work.id
    return work


def _deployable(session: Session, group_id: str) -> Group:
    field = "modelGroupConfigurationDetails.modelGroupId"
    group = find_named(session, Group, group_id, field)
    if group.lifecycle_state != "ACTIVE":
        raise Conflict(f"{field}: group {group_id} is {group.lifecycle_state}; activate it first")
    if group.type != "STACKED":
        raise InvalidParameter(
            f"{field}: group {group_id} is {group.type}, and only STACKED groups can be served yet"
        )
    return group


def _check_group_change(
    session: Session, deployment: Deployment, group_id: str, update_type: UpdateType
) -> None:
    new, old = _deployable(session, group_id), find(session, Group, deployment.wanted_group_id)
    if update_type is UpdateType.LIVE and new.base_model_id != old.base_model_id:
        raise InvalidParameter(
            f"modelGroupConfigurationDetails.modelGroupId: group {group_id} has another base "
            f"({new.base_model_id}), which a LIVE update cannot exchange; use updateType ZDT"
        )


# What the gateway writes back


def observed(
    deployment: Deployment, state: State, details: str, model_states: dict[str, Any]
) -> None:
    """How it is now. Not a change that a client's etag should be stale for."""
    deployment.lifecycle_state = state
    deployment.lifecycle_details = details
    if deployment.model_states != model_states:
        deployment.model_states = model_states


def served(deployment: Deployment, group_id: str, configuration: dict[str, Any]) -> None:
    """A group has been brought to service, with a configuration."""
    if deployment.group_id not in (None, group_id):
        deployment.previous_group_id = deployment.group_id
    deployment.group_id, deployment.served_configuration = group_id, configuration


def gave_up_update(deployment: Deployment) -> None:
    """The wish for something else failed: what is served goes on being wanted."""
    if deployment.group_id is not None:
        deployment.wanted_group_id = deployment.group_id
    if deployment.served_configuration is not None:
        deployment.configuration = deployment.served_configuration


def begin_work(session: Session, deployment: Deployment) -> WorkRequest | None:
    """The work that is asked for, marked as begun."""
    work = current_work(session, deployment)
    if work is not None:
        begin(work)
    return work


def begin_again(session: Session, gateway: str) -> None:
    """The gateway has just started: nothing that it is said to serve is served yet."""
    said = (State.ACTIVE, State.NEEDS_ATTENTION)
    query = select(Deployment).where(
        Deployment.gateway == gateway, Deployment.lifecycle_state.in_(said)
    )
    for deployment in session.scalars(query.with_for_update()):
        observed(deployment, State.CREATING, "the server starts", {})


def uses_of_group(session: Session, group_id: str) -> list[str]:
    """The deployments that serve a group, want it, or may return to it."""
    query = select(Deployment.id).where(
        or_(
            Deployment.wanted_group_id == group_id,
            Deployment.group_id == group_id,
            Deployment.previous_group_id == group_id,
        )
    )
    return list(session.scalars(query))
