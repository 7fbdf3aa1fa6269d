"""A deployment: one group on this machine, from its files to a worker that answers, kept alive."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp

from stackserve.control.backoff import BREAKER, Verdict, after_death
from stackserve.control.groups import StackedGroup, refusal
from stackserve.control.launch import targets_of, worker_spec
from stackserve.control.states import MOVES, DeploymentState, DeploymentStatus
from stackserve.errors import StackserveError
from stackserve.protocol import AdapterFailed, Phase, Ready, WorkerEvent
from stackserve.routing.gate import Endpoint, Gate
from stackserve.routing.snapshot import GroupRoutes, Routes
from stackserve.settings import GroupSettings
from stackserve.types import Refusal
from stackserve.workers.process import (
    COMMAND,
    LogTail,
    ProtocolBroken,
    start_worker,
    worker_environment,
)

logger = logging.getLogger(__name__)

BAD_OPTIONS = 2
"""Exit code of a worker whose options vLLM refuses: the next one would refuse them too."""

HOPELESS = 3600
"""Retry-After, in seconds, of a group that only another configuration would mend."""

Progress = Callable[[int, int], None]


class ReadingStopped(Exception):
    """Ends the thread that reads adapters when nobody waits for it any more."""


class Deployment:
    """Owns a group's gate, its routes and its worker process. `run` is its whole life."""

    def __init__(
        self,
        settings: GroupSettings,
        read: Callable[[Progress], StackedGroup],
        routes: Routes,
        socket: Path,
        *,
        command: Sequence[str] = COMMAND,
        judge: Callable[[Sequence[float], float], Verdict] = after_death,
    ) -> None:
        self.name = settings.name
        self.gate = Gate(settings.name, settings.engine.max_in_flight)
        self._settings = settings
        self._read = read
        self._routes = routes
        self._socket = socket
        self._command = command
        self._judge = judge
        self._state = DeploymentState.PREPARING
        self._detail = "reading the base and its adapters"
        self._since = time.monotonic()
        self._was_ready = False
        self._changed = asyncio.Event()
        self._group: StackedGroup | None = None
        self._engine_refusals: dict[str, Refusal] = {}
        self._worker_pid: int | None = None
        self._deaths: list[float] = []
        self._publish()

    @property
    def state(self) -> DeploymentState:
        return self._state

    def status(self) -> DeploymentStatus:
        """The deployment as it is now."""
        routes = self._routes.current.groups[self.name]
        return DeploymentStatus(
            group=self.name,
            state=self._state,
            detail=self._detail,
            version=self._group.version if self._group else None,
            served=len(routes.targets),
            refused=routes.refusals,
            in_flight=self.gate.inside,
            worker_pid=self._worker_pid,
            seconds_in_state=round(time.monotonic() - self._since, 1),
            was_ready=self._was_ready,
        )

    @property
    def change(self) -> asyncio.Event:
        """Is set at the next change of state or detail, counted from now."""
        return self._changed

    async def run(self) -> None:
        """Read the group, then keep a worker alive for it, until cancelled."""
        try:
            if group := await self._prepare():
                await self._keep_alive(group)
            await asyncio.Event().wait()  # only another configuration would help
        except Exception:  # the root of a task: else the group would be gone without a word
            logger.exception("%s: its supervision broke", self.name)
            self.gate.shut("an internal error; the server's log says more")
            self._move(DeploymentState.FAILED, "an internal error; the server's log says more")
            await asyncio.Event().wait()
        finally:
            self.gate.shut("the server shuts down")
            self._move(DeploymentState.STOPPED, "the server shuts down")

    async def _prepare(self) -> StackedGroup | None:
        def progress(done: int, total: int) -> None:
            if given_up.is_set():
                raise ReadingStopped
            loop.call_soon_threadsafe(self._report, f"reading adapters, {done} of {total}")

        loop, given_up = asyncio.get_running_loop(), threading.Event()
        try:
            self._group = await asyncio.to_thread(self._read, progress)
        except StackserveError as error:
            self.gate.shut("it could not be read; /readyz and the server's log say why", HOPELESS)
            self._move(DeploymentState.FAILED, f"{error.message} ({error.code})")
            return None
        finally:
            given_up.set()
        for refused in self._group.refused:
            logger.error("%s: %s is not served: %s", self.name, refused.key, refused.message)
        self._publish()
        return self._group

    async def _keep_alive(self, group: StackedGroup) -> None:
        while True:
            self._move(DeploymentState.STARTING, "starting the worker")
            try:
                pause = await self._one_worker(group)
            except OSError as error:  # no memory or descriptors for a process: they may come back
                pause = self._on_death(None, f"it could not be started: {error}")
            await asyncio.sleep(pause)

    async def _one_worker(self, group: StackedGroup) -> float:
        """Start a worker and live with it until it ends; the pause before the next, in seconds."""
        self._socket.unlink(missing_ok=True)
        self._engine_refusals.clear()
        tail = LogTail(logging.getLogger(f"stackserve.worker.{self.name}").info)
        starting = start_worker(
            lambda fd: worker_spec(group, self._socket, fd),
            tail,
            worker_environment(os.environ, self._socket.parent),
            self._command,
        )
        # The worker ends before its session, so that who reads from it sees how it ends.
        async with AsyncExitStack() as stack, starting as worker:
            self._worker_pid = worker.pid
            stack.callback(setattr, self, "_worker_pid", None)
            limit = self._settings.engine.start_timeout_seconds
            try:
                async with asyncio.timeout(limit) as start:
                    async for event in worker.events():
                        if isinstance(event, Ready):
                            start.reschedule(None)
                        await self._on_event(event, stack)
            except TimeoutError:
                return self._on_death(None, f"not ready within {limit:g} s (start_timeout_seconds)")
            except ProtocolBroken as error:
                return self._on_death(None, str(error))
            code = await worker.exited()
            return self._on_death(code, f"{_exit(code)}: {tail.reason()}")

    async def _on_event(self, event: WorkerEvent, worker_life: AsyncExitStack) -> None:
        match event:
            case Phase():
                self._report(_describe(event))
            case AdapterFailed():
                self._refuse(event)
            case Ready():
                session = await worker_life.enter_async_context(_reach(self._socket))
                endpoint = Endpoint(session, frozenset(event.tasks))
                worker_life.callback(endpoint.closed.set)
                self._open(
                    endpoint, f"answers: vLLM {event.vllm_version}, {event.max_model_len} tokens"
                )

    def _on_death(self, code: int | None, reason: str) -> float:
        """Say at once that the worker is gone, before its remains are cleared; the pause to take."""
        logger.error("%s: its worker ended: %s", self.name, reason)
        if code == BAD_OPTIONS:
            self.gate.shut(
                "it could not be started; /readyz and the server's log say why", HOPELESS
            )
            self._move(DeploymentState.FAILED, reason)
            return math.inf  # the next one would be refused too
        now = time.monotonic()
        self._deaths = [*self._deaths, now][-BREAKER:]
        verdict = self._judge(self._deaths, now)
        state = DeploymentState.FAILED if verdict.broken else DeploymentState.RESTARTING
        self.gate.shut("its engine died and is being restarted", 5 + round(verdict.pause))
        self._move(state, f"{reason}; next start in {verdict.pause:g} s")
        return verdict.pause

    def _open(self, endpoint: Endpoint, detail: str) -> None:
        self._publish()
        self.gate.open(endpoint)
        self._was_ready = True
        self._move(DeploymentState.READY, detail)

    def _refuse(self, event: AdapterFailed) -> None:
        member = next(m for m in self._settings.members if m.key == event.key)
        logger.error("%s: the engine refused %s: %s", self.name, event.key, event.message)
        message = "the engine could not load it; the server's log says why"
        self._engine_refusals[event.key] = refusal(
            self._settings, member, "adapter_engine_refused", message
        )

    def _move(self, state: DeploymentState, detail: str) -> None:
        if state not in MOVES[self._state]:
            raise AssertionError(f"{self.name}: no move from {self._state} to {state}")
        logger.info("%s: %s: %s", self.name, state, detail)
        self._state = state
        self._since = time.monotonic()
        self._report(detail)

    def _report(self, detail: str) -> None:
        self._detail = detail
        self._changed.set()
        self._changed = asyncio.Event()

    def _publish(self) -> None:
        """Swap this group's routes for what is known of it now."""
        group = self._group
        if group is None:
            models = self._settings.models
            pending = (*(m.key for m in models), *map(self._settings.model_id_of, models))
            self._routes.publish(self.name, GroupRoutes(self.gate, pending=pending))
            return
        targets = tuple(t for t in targets_of(group) if t.key not in self._engine_refusals)
        refusals = (*group.refused, *self._engine_refusals.values())
        self._routes.publish(self.name, GroupRoutes(self.gate, targets, refusals))


def _reach(socket: Path) -> aiohttp.ClientSession:
    """A session to a worker: as many connections as the gate lets in, no limit on an answer's time."""
    return aiohttp.ClientSession(
        "http://worker",
        connector=aiohttp.UnixConnector(str(socket), limit=0, keepalive_timeout=60),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _describe(phase: Phase) -> str:
    return f"{phase.name}, {phase.done} of {phase.total}" if phase.total else phase.name


def _exit(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
