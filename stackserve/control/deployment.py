"""A deployment: one group on this machine, from its files to a worker that answers, kept alive."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import aiohttp

from stackserve.control.groups import StackedGroup
from stackserve.control.launch import adapter_specs, engine_options, room_of, worker_spec
from stackserve.control.reading import Read, read_in_thread
from stackserve.control.roster import Roster
from stackserve.control.served import pending_routes, served_routes
from stackserve.control.states import DeploymentState, DeploymentStatus, Standing
from stackserve.control.tasks import first_of
from stackserve.control.trial import Trial
from stackserve.control.update import check_settings, fitted, switchable
from stackserve.errors import RolloutFailed, StackserveError
from stackserve.protocol import AdapterFailed, AdapterSpec, Phase, Ready, WorkerEvent
from stackserve.routing.gate import Endpoint, Gate
from stackserve.routing.snapshot import Routes
from stackserve.settings import GroupSettings
from stackserve.workers.backoff import Deaths, Judge
from stackserve.workers.process import (
    COMMANDS,
    LogTail,
    ProtocolBroken,
    how_ended,
    start_worker,
    worker_environment,
)
from stackserve.workers.reach import reach

logger = logging.getLogger(__name__)

BAD_OPTIONS = 2
"""Exit code of a worker whose engine refuses its options: the next one would refuse them too."""

HOPELESS = 3600
"""Retry-After, in seconds, of a group that only another configuration would mend."""

RETRY_SECONDS = 1.0
"""After which a living worker that broke off is asked again."""


class _NotReady(Exception):
    """A worker's start takes too long."""


class Deployment:
    """Owns a group's gate, its routes and its worker process. `run` is its whole life.

    What it serves is one wish, set by `want`: each worker is started with it, and a living one is
    brought to it (`_keep_members`), however often it changes and whatever dies in between.
    """

    def __init__(
        self,
        settings: GroupSettings,
        read: Read,
        routes: Routes,
        socket: Path,
        *,
        address: str | None = None,
        command: Sequence[str] | None = None,
        judge: Judge | None = None,
    ) -> None:
        self.name = settings.name
        self.gate = Gate(settings.name, settings.engine.max_in_flight)
        self.settings = settings
        self.standing = Standing(settings.name, "reading the base and its adapters")
        self.wanted: StackedGroup | None = None
        self._news = asyncio.Event()
        """Set, and replaced, when `wanted` changes."""
        self._remedy = self._news
        """The news after a worker's end: they may mend what ended it."""
        self._settled = asyncio.Event()
        self._read = read
        self._routes = routes
        self._address = address
        self._socket = socket
        self._command = command or COMMANDS[settings.engine.runtime]
        self._group: StackedGroup | None = None
        """What the routes are made of."""
        self._options: dict[str, Any] | None = None
        """The engine's, as of the first worker: an update that fits it also fits the next ones."""
        self._roster = Roster(self.name, ())
        self._worker_pid: int | None = None
        self._deaths = Deaths(judge)
        self._switching = asyncio.Lock()
        self._trial: Trial | None = None
        self._publish()

    def status(self) -> DeploymentStatus:
        """The deployment as it is now."""
        routes, standing = self._routes.current.groups[self.name], self.standing
        return DeploymentStatus(
            group=self.name,
            state=standing.state,
            detail=standing.detail,
            version=self._group.version if self._group else None,
            served=len(routes.targets),
            refused=routes.refusals,
            in_flight=self.gate.inside,
            worker_pid=self._worker_pid,
            seconds_in_state=standing.seconds,
            was_ready=standing.was_ready,
            update=standing.update,
        )

    # Updates

    async def read(self, settings: GroupSettings) -> StackedGroup:
        """The group with other settings, as its files are now; nothing changes yet.

        Raises NotLive, and ArtifactRejected for its base.
        """
        if self._options is not None:
            check_settings(self.settings, settings)
        return await read_in_thread(self._read, settings, self.standing.note)

    def fitted(self, group: StackedGroup) -> StackedGroup:
        """The group as its engine can serve it. Raises NotLive."""
        if self._options is None or self.wanted is None:
            return group
        return fitted(group, self.wanted, room_of(self._options))

    def want(self, group: StackedGroup) -> None:
        """Serve this from now on: at once where a worker answers, else with the next worker."""
        known = self.wanted.refused if self.wanted else ()
        for refused in group.refused:
            if refused not in known:
                logger.error("%s: %s is not served: %s", self.name, refused.key, refused.message)
        self.settings, self.wanted = group.settings, group
        self.gate.limit = group.settings.engine.max_in_flight
        self._settled.clear()
        self._news.set()
        self._news = asyncio.Event()
        if self.gate.endpoint is None:
            self._adopt()

    async def switch(self, group: StackedGroup) -> None:
        """Serve this in place of what is served, all of it or nothing: each new adapter is loaded and
        computes a token before the routes are swapped, in one assignment.

        Raises RolloutFailed or NotLive, and then everything is as before.
        """
        async with self._switching:
            if self.gate.endpoint is None or self.wanted is None:
                raise RolloutFailed({"": f"its engine does not answer: {self.standing.detail}"})
            group = switchable(group, self.wanted, room_of(self._options or {}))
            self._trial = trial = Trial(self.wanted, asyncio.get_running_loop().create_future())
            self.want(group)
            try:
                await trial.verdict
            finally:
                self._trial = None

    async def settled(self) -> None:
        """Wait until the routes are those of `wanted`, and its worker, if one answers, can follow them."""
        await self._settled.wait()

    # One beside another

    async def started(self) -> None:
        """Wait until it answers. Raises RolloutFailed when it cannot."""
        while (state := self.standing.state) is not DeploymentState.READY:
            if state in (DeploymentState.FAILED, DeploymentState.STOPPED):
                raise RolloutFailed({"": self.standing.detail})
            await self.standing.change.wait()

    def go_live(self, routes: Routes) -> None:
        """Publish here from now on; until now it was known to nobody."""
        routes.publish(self.name, self._routes.current.groups[self.name])
        self._routes = routes

    def withdraw(self) -> None:
        """Publish nothing any more; another one takes its name. Who is inside may finish."""
        hidden = Routes()
        hidden.publish(self.name, self._routes.current.groups[self.name])
        self._routes = hidden

    async def drain(self, seconds: float) -> None:
        """Wait until no request is inside, at most so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.gate.empty()

    # Its life

    async def run(self) -> None:
        """Read the group, then keep a worker alive for it, until cancelled."""
        try:
            await self._prepare()
            await self._keep_alive()
        except Exception:  # the root of a task: else the group would be gone without a word
            logger.exception("%s: its supervision broke", self.name)
            self.gate.shut("an internal error; the server's log says more")
            self.standing.move(
                DeploymentState.FAILED, "an internal error; the server's log says more"
            )
            self._give_up({"": self.standing.detail})
            self._settled.set()
            await asyncio.Event().wait()
        finally:
            self.gate.shut("the server shuts down")
            self.standing.move(DeploymentState.STOPPED, "the server shuts down")
            self._give_up({"": self.standing.detail})

    async def _prepare(self) -> None:
        """Until it is known what to serve: what is read now, or what an update wants before that."""

        async def read() -> None:
            group = await read_in_thread(self._read, self.settings, self.standing.report)
            if self.wanted is None:
                self.want(group)

        try:
            await first_of(read(), self._news.wait())
        except StackserveError as error:
            self.gate.shut("it could not be read; /readyz and the server's log say why", HOPELESS)
            self.standing.move(DeploymentState.FAILED, f"{error.message} ({error.code})")
            await self._news.wait()  # only another configuration would help

    async def _keep_alive(self) -> None:
        while True:
            self.standing.move(DeploymentState.STARTING, "starting the worker")
            try:
                pause = await self._one_worker()
            except OSError as error:  # no memory or descriptors for a process: they may come back
                pause = self._on_death(None, f"it could not be started: {error}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._remedy.wait(), pause)

    async def _one_worker(self) -> float:
        """Start a worker and live with it until it ends; the pause before the next, in seconds."""
        group = self.wanted
        assert group is not None
        options = self._options = self._options or engine_options(group)
        self._roster = Roster(self.name, adapter_specs(group))
        self._socket.unlink(missing_ok=True)
        tail = LogTail(logging.getLogger(f"stackserve.worker.{self.name}").info)
        starting = start_worker(
            lambda fd: worker_spec(group, options, self._socket, fd),
            tail,
            worker_environment(os.environ, self._socket.parent),
            self._command,
        )
        # The worker ends before its session, so that who reads from it sees how it ends.
        async with AsyncExitStack() as stack, starting as worker:
            self._worker_pid = worker.pid
            stack.callback(setattr, self, "_worker_pid", None)
            try:
                async with aclosing(worker.events()) as events:
                    if ready := await self._until_ready(events):
                        await self._serve(ready, events, stack)
            except (_NotReady, ProtocolBroken) as error:
                return self._on_death(None, str(error))
            code = await worker.exited()
            return self._on_death(code, f"{how_ended(code)}: {tail.reason()}")

    async def _until_ready(self, events: AsyncIterator[WorkerEvent]) -> Ready | None:
        """Follow a worker's start; None when it ends before it answers."""
        limit = self.settings.engine.start_timeout_seconds
        try:
            async with asyncio.timeout(limit):
                async for event in events:
                    match event:
                        case Phase():
                            self.standing.report(_describe(event))
                        case AdapterFailed():
                            self._roster.failed(event.key, event.message)
                        case Ready():
                            return event
        except TimeoutError:
            raise _NotReady(f"not ready within {limit:g} s (start_timeout_seconds)") from None
        return None

    async def _serve(
        self, ready: Ready, events: AsyncIterator[WorkerEvent], worker_life: AsyncExitStack
    ) -> None:
        """Let requests to a worker until it ends."""
        endpoint = await worker_life.enter_async_context(reach(self._socket, ready.tasks))
        note = f" ({ready.note})" if ready.note else ""
        detail = f"answers: {ready.engine}, {ready.max_model_len} tokens{note}"
        await first_of(self._keep_members(endpoint, detail), _exhaust(events))

    async def _keep_members(self, endpoint: Endpoint, detail: str) -> None:
        """Bring a living worker to what is wanted, now and after every update."""
        while True:
            try:
                await self._bring_to_wanted(endpoint, detail)
                self._roster.forgive()
            except (aiohttp.ClientError, OSError) as error:
                # If it is dead, its end is on the way, and this ends with it.
                logger.warning("%s: its worker broke off while asked: %r", self.name, error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _bring_to_wanted(self, endpoint: Endpoint, detail: str) -> None:
        """Load, swap the routes in one assignment, adjust, forget; returns when there is news."""
        group, news, session = self.wanted, self._news, endpoint.session
        assert group is not None
        specs = {spec.worker_model: spec for spec in adapter_specs(group)}
        starts = self.gate.endpoint is not endpoint
        report = self.standing.report if starts else self.standing.note
        await self._roster.load(session, specs, report)
        if not news.is_set() and not starts:
            await self._try(endpoint, specs, report)
        if news.is_set():
            return
        self._publish(group)
        if self._trial is not None:
            self._trial.passed()
        if starts:
            self.gate.open(endpoint)
            self.standing.move(DeploymentState.READY, detail)
        await self._roster.adjust(session, specs)
        if not news.is_set():
            self._settled.set()
        await self._roster.forget(session, specs, self.gate, news)
        await news.wait()

    async def _try(
        self, endpoint: Endpoint, specs: Mapping[str, AdapterSpec], report: Callable[[str], None]
    ) -> None:
        """Of a switch: prove what is not served yet, or give the switch up."""
        if self._trial is None:
            return
        served = {each.worker_model for each in self._routes.current.groups[self.name].targets}
        new = [spec for name, spec in specs.items() if name not in served]
        if failures := (
            self._roster.refusals(specs) or await self._roster.probe(endpoint, new, report)
        ):
            self._give_up(failures)

    def _give_up(self, failures: Mapping[str, str]) -> None:
        """A switch has failed: what was wanted before it is wanted again."""
        trial = self._trial
        if trial is not None and trial.failed(failures):
            self.want(trial.before)

    def _on_death(self, code: int | None, reason: str) -> float:
        """Say at once that the worker is gone, before its remains are cleared; the pause to take."""
        logger.error("%s: its worker ended: %s", self.name, reason)
        self.gate.shut("its engine died")
        self._give_up({"": f"its worker ended: {reason}"})
        self._remedy = self._news
        if code == BAD_OPTIONS:
            self.gate.shut(
                "it could not be started; /readyz and the server's log say why", HOPELESS
            )
            self.standing.move(DeploymentState.FAILED, reason)
            self._adopt()
            return math.inf  # the next one would be refused too
        verdict = self._deaths.at(time.monotonic())
        state = DeploymentState.FAILED if verdict.broken else DeploymentState.RESTARTING
        self.gate.shut("its engine died and is being restarted", 5 + round(verdict.pause))
        self.standing.move(state, f"{reason}; next start in {verdict.pause:g} s")
        self._adopt()
        return verdict.pause

    def _adopt(self) -> None:
        """While nobody can enter, what is wanted is what is served next, and needs no worker's help."""
        if self.wanted is not None:
            self._publish(self.wanted)
        self._settled.set()

    def _publish(self, group: StackedGroup | None = None) -> None:
        """Swap this group's routes; without a group, it is still to be read."""
        self._group = group
        if group is None:
            routes = pending_routes(self.gate, self.settings, self._address)
        else:
            routes = served_routes(self.gate, group, self._roster.refuses, self._address)
        self._routes.publish(self.name, routes)


async def _exhaust(events: AsyncIterator[WorkerEvent]) -> None:
    async for _ in events:
        pass  # it has said all that matters here; its end is the end of this


def _describe(phase: Phase) -> str:
    return f"{phase.name}, {phase.done} of {phase.total}" if phase.total else phase.name
