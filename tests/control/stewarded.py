"""A steward with a store, and fake workers: what it is told to serve, and what it makes of it."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from sqlalchemy import select

from stackserve.adapters import validate_adapter
from stackserve.catalog import deployments as catalog
from stackserve.catalog.deployments import UpdateType
from stackserve.catalog.resources import now
from stackserve.catalog.work_requests import Status
from stackserve.control.deployment import Deployment
from stackserve.control.groups import read_group
from stackserve.control.ledger import Ledger
from stackserve.control.steward import Steward
from stackserve.errors import StackserveError, StoreUnavailable
from stackserve.routing.snapshot import Routes
from stackserve.settings import GroupSettings
from stackserve.store.database import Database
from stackserve.store.tables import Deployment as Row
from stackserve.store.tables import Group, WorkRequest, WorkRequestLine
from stackserve.workers import fake
from stackserve.workers.backoff import Verdict
from tests.running import CHAT, PATIENCE, eventually, question

FIELDS: dict[str, Any] = {"compartment_id": "c", "display_name": "d", "project_id": "p"}


@dataclass
class Stewarded:
    """One deployment, its row, and its steward; groups are known by names that tests choose."""

    database: Database
    routes: Routes
    id: str
    groups: dict[str, GroupSettings | StackserveError]
    made: list[Deployment] = field(default_factory=list)
    steward: Steward = field(init=False)

    def update(self, group: str, kind: UpdateType) -> str:
        """Want another group; the id of the work."""
        return self._ask(
            lambda session: (
                catalog.update_deployment(
                    session, self.id, None, {}, group_id=group, update_type=kind
                )[1].id
            )
        )

    def delete(self) -> str:
        return self._ask(lambda session: catalog.delete_deployment(session, self.id, None)[1].id)

    def deactivate(self) -> str:
        return self._ask(
            lambda session: catalog.deactivate_deployment(session, self.id, None)[1].id
        )

    def activate(self) -> str:
        return self._ask(lambda session: catalog.activate_deployment(session, self.id, None)[1].id)

    async def ended(self, work: str) -> tuple[str, str]:
        """Wait until some work has ended; its status, and its error or nothing."""
        await eventually(lambda: self.status(work).is_final, PATIENCE)
        query = select(WorkRequestLine.message).where(
            WorkRequestLine.work_request_id == work, WorkRequestLine.code.is_not(None)
        )
        with self.database.read() as session:
            return self.status(work), "; ".join(session.scalars(query))

    def status(self, work: str) -> Status:
        with self.database.read() as session:
            return Status(session.get_one(WorkRequest, work).status)

    def row(self) -> Row | None:
        with self.database.read() as session:
            return session.get(Row, self.id)

    def state(self) -> str:
        row = self.row()
        return row.lifecycle_state if row else "gone"

    def first_work(self) -> str:
        row = self.row()
        assert row is not None
        assert row.work_request_id is not None
        return row.work_request_id

    @contextmanager
    def store_away(self) -> Iterator[mock.Mock]:
        """While the database does not answer; the mock counts how often it is asked."""
        away = mock.Mock(side_effect=StoreUnavailable("the disk is full"))
        with mock.patch.multiple(Database, read=away, transact=away):
            yield away

    async def ask_worker(self, method: str, path: str) -> bytes:
        """What the first engine's worker says to a question for tests."""
        endpoint = self.made[0].gate.endpoint
        assert endpoint is not None
        async with endpoint.session.request(method, path) as answer:
            return await answer.read()

    async def who(self, words: str = "whoami") -> str:
        """The worker's name of the adapter `a` as the routes have it, which has answered under it."""
        way = self.routes.current.resolve(f"{next(iter(self.routes.current.groups))}/a")
        name = way.target.worker_model
        with way.gate.enter(name) as endpoint:
            async with endpoint.session.post(CHAT, json=question(words, model=name)) as response:
                answer: Any = await response.json()
        assert response.status == 200, answer
        said = answer["choices"][0]["message"]["content"]
        assert said == (name if words == "whoami" else words)
        return name

    def _ask(self, work: Callable[[Any], str]) -> str:
        identifier = self.database.transact(work)
        self.steward.poke()
        return identifier


@asynccontextmanager
async def stewarded(
    database: Database, first: str, groups: dict[str, GroupSettings | StackserveError]
) -> AsyncIterator[Stewarded]:
    """A deployment of the group `first` and its steward, from the moment when it is created."""

    def create(session: Any) -> str:
        session.add_all(_row(name) for name in groups)
        session.flush()
        made, _ = catalog.create_deployment(
            session, "me", gateway="gw", url="", group_id=first, configuration={}, **FIELDS
        )
        return made.id

    identifier = database.transact(create)
    with tempfile.TemporaryDirectory(prefix="ss-") as folder:
        served = Stewarded(database, Routes(), identifier, groups)
        sockets = itertools.count()

        def make(settings: GroupSettings, address: str, routes: Routes) -> Deployment:
            deployment = Deployment(
                settings,
                lambda group, progress: read_group(group, Path, validate_adapter, progress),
                routes,
                Path(folder) / f"{next(sockets)}.sock",
                address=address,
                command=fake.COMMAND,
                judge=_twice,
            )
            served.made.append(deployment)
            return deployment

        def settings_of(_: Any, name: str, content: Any) -> GroupSettings:
            group = served.groups[content.group_id]
            if isinstance(group, StackserveError):
                raise group
            return group.model_copy(update={"name": name})

        ledger = Ledger(database, "gw", settings_of)
        served.steward = Steward(
            identifier, ledger, make, served.routes, PATIENCE, changed=lambda: None
        )
        life = asyncio.create_task(served.steward.run())
        try:
            yield served
        finally:
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)
    assert all(each.standing.state == "stopped" for each in served.made), "no engine is left"


def _twice(deaths: Any, now: float) -> Verdict:
    """Restart at once, and have enough after two deaths."""
    return Verdict(3600, broken=True) if len(deaths) == 2 else Verdict(0, broken=False)


def _row(identifier: str) -> Group:
    moment = now()
    return Group(
        id=identifier,
        lifecycle_state="ACTIVE",
        created_by="me",
        time_created=moment,
        time_updated=moment,
        type="STACKED",
        base_model_id="base",
        create_type="CREATE",
        **FIELDS,
    )
