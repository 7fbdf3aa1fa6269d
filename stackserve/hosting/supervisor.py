"""Keeps a runtime's worker alive: the next one after a crash, and a fresh one beside it on request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum

from stackserve.hosting.process import NotStarted, ProcessPlan, RuntimeProcess, start_process
from stackserve.workers.backoff import Deaths
from stackserve.workers.process import LogTail

logger = logging.getLogger(__name__)

RETIRE_SECONDS = 30.0
"""How long a worker that is replaced may finish what runs."""


class WorkerState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    """It died, or could not be started; the next one starts after a pause."""
    FAILED = "failed"
    """It cannot start as it is configured, or keeps dying."""


@dataclass(frozen=True)
class WorkerStatus:
    runtime: str
    state: WorkerState
    detail: str
    pid: int | None


class Supervisor:
    """Owns the processes of one runtime. `run` is its whole life."""

    def __init__(
        self,
        plan: ProcessPlan,
        log: str,
        came: Callable[[RuntimeProcess], None],
        went: Callable[[RuntimeProcess], None],
        changed: Callable[[], None],
    ) -> None:
        """`came` is called when a process can be asked, `went` at once when it cannot any more."""
        self.plan = plan
        self.process: RuntimeProcess | None = None
        self.state = WorkerState.STARTING
        self.detail = "starting"
        self._came = came
        self._went = went
        self._changed = changed
        self._tail = LogTail(logging.getLogger(log).info)
        self._deaths = Deaths()
        self._news = asyncio.Event()
        """Set, and replaced, when `process` or `state` changes."""
        self._renewal = asyncio.Event()
        self._retiring: set[asyncio.Task[None]] = set()

    def status(self) -> WorkerStatus:
        pid = self.process.pid if self.process else None
        return WorkerStatus(self.plan.runtime, self.state, self.detail, pid)

    async def available(self) -> RuntimeProcess:
        """A process that can be asked, now or soon. Raises NotStarted when there will be none."""
        while self.process is None or self.process.channel.closed.is_set():
            if self.state is WorkerState.FAILED:
                raise NotStarted(self.detail)
            await self._news.wait()
        return self.process

    def renew(self) -> None:
        """Put a fresh process in the place of this one, without a pause between them."""
        self._renewal.set()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                pause = await self._one_after_another()
                await asyncio.sleep(pause)
        finally:
            for task in self._retiring:
                task.cancel()
            await asyncio.gather(*self._retiring, return_exceptions=True)

    async def _one_after_another(self) -> float:
        """Live with processes, each replaced by the next, until one dies; the pause before another."""
        async with AsyncExitStack() as stack:
            try:
                process = await stack.enter_async_context(start_process(self.plan, self._tail))
            except NotStarted as error:
                return self._died(str(error), hopeless=error.hopeless)
            except OSError as error:  # no memory or descriptors for a process: they may come back
                return self._died(f"it could not be started: {error}")
            except Exception as error:  # the root of a task: else it would be gone without a word
                logger.exception("the %s worker could not be started", self.plan.runtime)
                return self._died(f"it could not be started: {error!r}")
            while True:
                self._adopt(process)
                self._renewal.clear()
                if not await self._renewal_wanted(process):
                    return self._died(f"{await process.ended()}: {self._tail.reason()}")
                fresh = AsyncExitStack()
                try:
                    following = await fresh.enter_async_context(
                        start_process(self.plan, self._tail)
                    )
                except (NotStarted, OSError) as error:
                    logger.error("the %s worker is not renewed: %s", self.plan.runtime, error)
                    continue
                self._retire(process, stack.pop_all())
                stack.push_async_callback(fresh.aclose)
                process = following

    async def _renewal_wanted(self, process: RuntimeProcess) -> bool:
        """True when a fresh one is wished for, False when this one is gone."""
        waits = [
            asyncio.create_task(self._renewal.wait()),
            asyncio.create_task(process.channel.closed.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return not process.channel.closed.is_set()

    def _adopt(self, process: RuntimeProcess) -> None:
        if self.process is process:
            return
        self.process = process
        process.channel.on_close = lambda: self._lost(process)
        self._tell(WorkerState.READY, f"answers: {process.framework}")
        self._came(process)

    def _lost(self, process: RuntimeProcess) -> None:
        """At once, before those who wait for an answer hear of it."""
        if self.process is process:
            self.process = None
            if not process.expected_to_end:
                self._tell(WorkerState.RESTARTING, "its process ended")
        self._went(process)

    def _retire(self, process: RuntimeProcess, stack: AsyncExitStack) -> None:
        process.expected_to_end = True
        self._went(process)
        task = asyncio.create_task(_finish(process, stack))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def _died(self, reason: str, *, hopeless: bool = False) -> float:
        verdict = self._deaths.at(time.monotonic())
        broken = verdict.broken or hopeless
        logger.error("the %s worker ended: %s", self.plan.runtime, reason)
        self._tell(
            WorkerState.FAILED if broken else WorkerState.RESTARTING,
            f"{reason}; next start in {verdict.pause:g} s",
        )
        return verdict.pause

    def _tell(self, state: WorkerState, detail: str) -> None:
        self.state, self.detail = state, detail
        self._news.set()
        self._news = asyncio.Event()
        self._changed()


async def _finish(process: RuntimeProcess, stack: AsyncExitStack) -> None:
    """Let a process finish what it was asked, then end it."""
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETIRE_SECONDS):
                await process.channel.drained()
    finally:
        await stack.aclose()
