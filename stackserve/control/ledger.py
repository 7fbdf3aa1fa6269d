"""What the stewards read from the store and write to it, off the event loop."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from stackserve.catalog import deployments as catalog
from stackserve.catalog.deployments import State, UpdateType, Wanted
from stackserve.catalog.model_states import FAILED, INCONSISTENT, SUCCESS
from stackserve.catalog.work_requests import fail, finish, log
from stackserve.control.desired import Content, Wish
from stackserve.control.states import DeploymentState, DeploymentStatus
from stackserve.errors import RolloutFailed, StackserveError
from stackserve.settings import GroupSettings
from stackserve.store.database import Database
from stackserve.store.tables import Deployment, GroupMember

T = TypeVar("T")
UNNAMED = re.compile(r"[^a-z0-9]+")

SettingsOf = Callable[[Session, str, Content], GroupSettings]
"""The settings of a deployment's group, under a name; raises StackserveError for damaged artifacts."""


class Ledger:
    """The store, as the stewards of one gateway see it."""

    def __init__(self, database: Database, gateway: str, settings_of: SettingsOf) -> None:
        self._database = database
        self._gateway = gateway
        self._settings_of = settings_of
        self._told: dict[str, tuple[Any, ...]] = {}

    async def ids(self) -> list[str]:
        """The deployments that are this gateway's."""

        def read(session: Session) -> list[str]:
            query = select(Deployment.id).where(Deployment.gateway == self._gateway)
            return list(session.scalars(query))

        return await self._read(read)

    async def wish(self, identifier: str) -> Wish | None:
        """What is wanted of a deployment; None when it is no more."""

        def read(session: Session) -> Wish | None:
            row = session.get(Deployment, identifier)
            return None if row is None else _wish(row)

        return await self._read(read)

    async def settings(self, wish: Wish, content: Content) -> GroupSettings:
        """Raises StackserveError when an artifact is damaged or gone."""
        return await self._read(lambda session: self._settings_of(session, wish.name, content))

    async def began(self, wish: Wish) -> None:
        def write(session: Session, row: Deployment) -> None:
            catalog.begin_work(session, row)

        await self._write(wish.id, write)

    async def served(self, wish: Wish) -> None:
        """What is wanted has come to service by an update; the work is done."""

        def write(session: Session, row: Deployment) -> None:
            if _is_still(wish, row):
                catalog.served(row, row.wanted_group_id, row.configuration)
                row.lifecycle_state = State.ACTIVE
                if work := catalog.current_work(session, row):
                    finish(work)

        await self._write(wish.id, write)

    async def update_failed(self, wish: Wish, error: RolloutFailed) -> None:
        """Nothing has changed, and nothing is wanted to any more."""

        def write(session: Session, row: Deployment) -> None:
            if not _is_still(wish, row):
                return
            catalog.gave_up_update(row)
            row.lifecycle_state = State.ACTIVE
            row.lifecycle_details = f"not updated: {error.message}"
            if work := catalog.current_work(session, row):
                fail(session, work, error.code, error.message)

        await self._write(wish.id, write)

    async def failed(self, wish: Wish, error: StackserveError) -> None:
        """It does not even start."""

        def write(session: Session, row: Deployment) -> None:
            if not _is_still(wish, row):
                return
            catalog.observed(row, State.FAILED, f"{error.message} ({error.code})", {})
            if work := catalog.current_work(session, row):
                fail(session, work, error.code, error.message)

        await self._write_once(wish, ("failed", error.message), write)

    async def tell(
        self, wish: Wish, status: DeploymentStatus, lifecycle: tuple[State, str]
    ) -> None:
        """How a deployment is that runs, and its models; when it answers with what is wanted, the work
        is done.
        """
        state, details = lifecycle
        serves = status.state is DeploymentState.READY and state is not State.UPDATING

        def write(session: Session, row: Deployment) -> None:
            if not _is_still(wish, row):
                return
            shown = wish.content if serves else wish.served or wish.content
            catalog.observed(row, state, details, _model_states(session, shown, status))
            if serves:
                catalog.served(row, row.wanted_group_id, row.configuration)
            if work := catalog.current_work(session, row):
                log(session, work, details)
                if serves:
                    finish(work)
                elif state is State.FAILED:
                    fail(session, work, "DeploymentFailed", details)

        await self._write_once(wish, (state, details, status.refused), write)

    async def stopped(self, wish: Wish) -> None:
        """Its engine is gone, as was wanted."""

        def write(session: Session, row: Deployment) -> None:
            if row.wanted_state == Wanted.INACTIVE:
                catalog.observed(row, State.INACTIVE, "", {})
                if work := catalog.current_work(session, row):
                    finish(work)

        await self._write_once(wish, ("stopped",), write)

    async def forget(self, identifier: str) -> None:
        """Remove the row of a deployment that was deleted."""

        def write(session: Session, row: Deployment) -> None:
            if work := catalog.current_work(session, row):
                finish(work)
            session.delete(row)

        await self._write(identifier, write)
        self._told.pop(identifier, None)

    async def _write_once(
        self, wish: Wish, what: tuple[Any, ...], work: Callable[[Session, Deployment], None]
    ) -> None:
        """Write it unless it is the last thing that was written so of this wish."""
        if self._told.get(wish.id) != (wish, what):
            await self._write(wish.id, work)
            self._told[wish.id] = wish, what

    async def _read(self, work: Callable[[Session], T]) -> T:
        def read() -> T:
            with self._database.read() as session:
                return work(session)

        return await asyncio.to_thread(read)

    async def _write(self, identifier: str, work: Callable[[Session, Deployment], None]) -> None:
        def write(session: Session) -> None:
            row = session.get(Deployment, identifier, with_for_update=True)
            if row is not None:
                work(session, row)

        await asyncio.to_thread(self._database.transact, write)


def _wish(row: Deployment) -> Wish:
    served = None
    if row.group_id is not None:
        served = _content(row.group_id, row.served_configuration or row.configuration)
    return Wish(
        id=row.id,
        name=group_name(row),
        state=Wanted(row.wanted_state),
        content=_content(row.wanted_group_id, row.configuration),
        served=served,
        update_type=UpdateType(row.update_type) if row.update_type else None,
        work=row.work_request_id,
    )


def _is_still(wish: Wish, row: Deployment) -> bool:
    """Else something else is wanted by now, and what was told of the wish is not true of it."""
    content = _content(row.wanted_group_id, row.configuration)
    return (Wanted(row.wanted_state), content) == (wish.state, wish.content)


def group_name(row: Deployment) -> str:
    """`support-3f2a9c01`: to be read in logs, metrics and `model`, and of this deployment alone."""
    words = UNNAMED.sub("-", row.display_name.lower()).strip("-")[:40].strip("-")
    return f"{words or 'deployment'}-{row.id.rpartition('.')[2][:8]}"


def _content(group_id: str, configuration: dict[str, Any]) -> Content:
    details = configuration.get("environmentConfigurationDetails") or {}
    variables = details.get("environmentVariables") or {}
    return Content(group_id, tuple(sorted(variables.items())))


def _model_states(
    session: Session, content: Content, status: DeploymentStatus
) -> dict[str, dict[str, str]]:
    ready = status.state is DeploymentState.READY
    refused = {each.model_id: each.message for each in status.refused}
    query = select(GroupMember.model_id).where(GroupMember.group_id == content.group_id)
    members = session.scalars(query)
    return {
        model: {"state": FAILED, "message": refused[model]}
        if model in refused
        else {"state": SUCCESS if ready else INCONSISTENT, "message": ""}
        for model in members
    }
