"""A deployment of models of other frameworks: from its settings to a host that answers."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from stackserve.control.hosted_groups import HostedGroup, Locate, host_plan, read_hosted
from stackserve.control.states import MOVES, DeploymentState, DeploymentStatus, Standing
from stackserve.control.tasks import first_of
from stackserve.control.update import in_words
from stackserve.hosting.host import ModelHost
from stackserve.hosting.models import HostedModel
from stackserve.hosting.supervisor import WorkerState
from stackserve.routing.gate import Gate
from stackserve.routing.snapshot import GroupRoutes, Routes
from stackserve.runtime_settings import RuntimeGroupSettings

logger = logging.getLogger(__name__)


class HostedDeployment:
    """Owns a group's gate, its routes and its host. `run` is its whole life."""

    def __init__(
        self,
        settings: RuntimeGroupSettings,
        locate: Locate,
        routes: Routes,
        scratch: Path,
        most_body: int,
        *,
        address: str | None = None,
    ) -> None:
        self.name = settings.name
        self.settings = settings
        self.gate = Gate(settings.name, settings.max_in_flight)
        self.standing = Standing(settings.name, "looking at its models")
        self._locate = locate
        self._routes = routes
        self._scratch = scratch
        self._most_body = most_body
        self._address = address
        self._group: HostedGroup | None = None
        self._host: ModelHost | None = None
        self._change = asyncio.Event()
        """Set when a worker's state changes."""
        routes.publish(
            self.name, GroupRoutes(self.gate, pending=tuple(settings.names), address=address)
        )

    def status(self) -> DeploymentStatus:
        """The deployment as it is now."""
        routes = self._routes.current.groups[self.name]
        workers = self._host.workers() if self._host else []
        return DeploymentStatus(
            group=self.name,
            state=self.standing.state,
            detail=self.standing.detail,
            version=self._group.version if self._group else None,
            served=len(routes.targets),
            refused=routes.refusals,
            in_flight=self.gate.inside,
            worker_pid=next((each.pid for each in workers if each.pid), None),
            seconds_in_state=self.standing.seconds,
            was_ready=self.standing.was_ready,
            update=self.standing.update,
        )

    async def run(self) -> None:
        """Look at the models, then keep their host alive, until cancelled."""
        try:
            self._scratch.mkdir(parents=True, exist_ok=True)
            group = await self._read()
            plan = host_plan(group, self._locate, self._scratch, self._most_body)
            self._host = host = ModelHost(plan, self._change.set)
            self._serve(group)
            self.standing.move(DeploymentState.STARTING, "starting the workers")
            self.gate.open(host)
            await first_of(host.run(), self._watch(host))
        except Exception:  # the root of a task: else the group would be gone without a word
            logger.exception("%s: its supervision broke", self.name)
            self.gate.shut("an internal error; the server's log says more")
            self.standing.move(
                DeploymentState.FAILED, "an internal error; the server's log says more"
            )
            await asyncio.Event().wait()
        finally:
            self.gate.shut("the server shuts down")
            self.standing.move(DeploymentState.STOPPED, "the server shuts down")

    async def _read(self) -> HostedGroup:
        """As the settings are when it is read, which an update may change meanwhile."""
        while True:
            settings = self.settings
            group = await asyncio.to_thread(read_hosted, settings, self._locate)
            if settings is self.settings:
                return group

    async def update(self, settings: RuntimeGroupSettings) -> str:
        """Serve what the settings and the files say now, without a pause: requests that are under way
        finish with the model that they began with. What changed, in words; empty when nothing did.
        """
        group = await asyncio.to_thread(read_hosted, settings, self._locate)
        before = self._group
        self.settings = settings
        self.gate.limit = settings.max_in_flight
        if self._host is not None:
            plan = host_plan(group, self._locate, self._scratch, self._most_body)
            self._host.hire(plan.workers)
            self._serve(group)
        return _difference(before, group)

    def _serve(self, group: HostedGroup) -> None:
        """Swap the models and the routes; a model that is as it was stays where it is."""
        host = self._host
        assert host is not None
        for refused in group.refused:
            logger.error("%s: %s is not served: %s", self.name, refused.key, refused.message)
        models: list[HostedModel] = []
        for source in group.sources:
            known = host.find(source.key, source.version)
            models.append(known if known and known.source == source else host.new(source))
        host.serve(models)
        self._group = group
        routes = GroupRoutes(self.gate, group.targets(), group.refused, address=self._address)
        self._routes.publish(self.name, routes)

    async def _watch(self, host: ModelHost) -> None:
        """Say of the group what is to be said of its workers."""
        while True:
            self._change.clear()
            state, detail = _standing(host)
            self._stand(state, detail)
            await self._change.wait()

    def _stand(self, state: DeploymentState, detail: str) -> None:
        now = self.standing.state
        hired = now is DeploymentState.READY and state is DeploymentState.STARTING
        if state is now or hired:
            self.standing.report(detail)
            return
        if state not in MOVES[now]:
            self.standing.move(DeploymentState.STARTING, detail)
        self.standing.move(state, detail)


def _standing(host: ModelHost) -> tuple[DeploymentState, str]:
    """The group is as its worst worker."""
    workers = host.workers()
    for worst, state in (
        (WorkerState.FAILED, DeploymentState.FAILED),
        (WorkerState.RESTARTING, DeploymentState.RESTARTING),
        (WorkerState.STARTING, DeploymentState.STARTING),
    ):
        bad = [each for each in workers if each.state is worst]
        if bad:
            return state, "; ".join(f"{each.runtime}: {each.detail}" for each in bad)
    return DeploymentState.READY, "; ".join(each.detail for each in workers) or "it has no models"


def _difference(old: HostedGroup | None, new: HostedGroup) -> str:
    if old is None:
        return "read anew"
    before = {(s.key, s.version): s for s in old.sources}
    after = {(s.key, s.version): s for s in new.sources}
    counts = {
        "added": len(after.keys() - before.keys()),
        "replaced": sum(before[k] != after[k] for k in before.keys() & after.keys()),
        "removed": len(before.keys() - after.keys()),
        "refused": len(set(new.refused) - set(old.refused)),
    }
    return in_words(counts)
