"""A group's models: found, asked, and looked after together with their workers."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stackserve.errors import EngineFailed, ModelUnavailable, Overloaded
from stackserve.hosting.channel import ChannelClosed
from stackserve.hosting.loading import Loading
from stackserve.hosting.models import HostedModel, ModelSource, ModelState
from stackserve.hosting.process import ProcessPlan, RuntimeProcess
from stackserve.hosting.residency import blamed_again, keeps_memory
from stackserve.hosting.room import MIB
from stackserve.hosting.supervisor import Supervisor, WorkerStatus
from stackserve.routing.gate import Hosted
from stackserve.runtimes.protocol import Answer, Infer

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
RENEW_PAUSE_SECONDS = 60.0
LEAST_SLACK = 64 * MIB
"""Bytes that a worker may hold beyond what its models are charged."""
MOST_UNSENT = 256 * MIB
"""Bytes of requests that a worker has not read; beyond, requests are refused."""

QUARANTINE = (
    "it was being loaded or computed at two crashes of its worker running; "
    "mend it, or load it by hand to try it again"
)


@dataclass(frozen=True)
class HostPlan:
    """How a group's models are kept. Times are seconds."""

    group: str
    budget: int
    """Bytes of host memory for all models."""
    workers: Mapping[str, ProcessPlan]
    """By runtime."""
    idle_seconds: float | None = None
    """After which a model that nobody asks for is unloaded."""
    infer_seconds: float = 60.0
    """A request that is computed for longer is taken for one that never ends."""
    load_seconds: float = 300.0
    room_seconds: float = 10.0
    """How long a model waits for others to become idle."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a model; see `Infer`."""

    name: str
    body: bytes
    json_bytes: int | None = None
    encoding: str | None = None
    accept: str | None = None


class ModelHost(Hosted):
    """Owned by the group's deployment. `run` is its whole life; before and after it nothing answers."""

    def __init__(self, plan: HostPlan, changed: Callable[[], None]) -> None:
        """`changed` is called when a worker's state does."""
        self.plan = plan
        self._models: dict[int, HostedModel] = {}
        self._versions: dict[str, dict[str, HostedModel]] = {}
        """By key and version, the latest version last."""
        self._numbers = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._blamed: dict[str, frozenset[int]] = {}
        """By runtime: what was worked on at the last crash."""
        self._renewed: dict[str, float] = {}
        self._changed = changed
        self._workers: dict[str, Supervisor] = {}
        self.hire(plan.workers)
        self.loading = Loading(self._workers, self._all, plan.budget, plan.room_seconds)
        self._room = self.loading.room

    # What there is

    def find(self, key: str, version: str | None = None) -> HostedModel | None:
        """The model of a key; without a version, the latest."""
        versions = self._versions.get(key, {})
        if version is not None:
            return versions.get(version)
        return next(reversed(versions.values()), None)

    def versions(self, key: str) -> Mapping[str, HostedModel]:
        return self._versions.get(key, {})

    def models(self) -> list[HostedModel]:
        """All that requests find."""
        return [model for versions in self._versions.values() for model in versions.values()]

    def workers(self) -> list[WorkerStatus]:
        return [worker.status() for worker in self._workers.values()]

    def answers(self, model: HostedModel) -> bool:
        """Whether a request would be answered: the model is there, or can be brought in now."""
        worker = self._workers[model.source.runtime]
        if worker.process is None or model.state in (
            ModelState.LOADING,
            ModelState.UNLOADING,
            ModelState.QUARANTINED,
        ):
            return False
        # It may have been unloaded by hand, or its last load failed.
        return model.state is ModelState.READY or not (model.reason or model.failure)

    def memory(self) -> tuple[int, int]:
        """Bytes: what the models are charged, and by how much the workers grew since they had none."""
        processes = [w.process for w in self._workers.values() if w.process is not None]
        grown = sum(max(0, each.rss() - each.baseline) for each in processes)
        return self._room.charged, grown

    def hire(self, plans: Mapping[str, ProcessPlan]) -> None:
        """Have workers for these runtimes, too."""
        for runtime, plan in plans.items():
            if runtime not in self._workers:
                log = f"stackserve.worker.{self.plan.group}"
                worker = Supervisor(plan, log, self._came, self._went, self._changed)
                self._workers[runtime] = worker
                self._spawn(worker.run())

    def _all(self) -> Iterable[HostedModel]:
        return self._models.values()

    def new(self, source: ModelSource) -> HostedModel:
        """A model that can be tried, and that no request finds before `serve`."""
        model = HostedModel(next(self._numbers), source)
        self._models[model.number] = model
        return model

    def serve(self, models: Iterable[HostedModel]) -> None:
        """Have requests find these and no others. What is not found any more goes when it is idle, and
        what is pinned comes.
        """
        kept: dict[str, dict[str, HostedModel]] = {}
        for model in models:
            kept.setdefault(model.source.key, {})[model.source.version] = model
        self._versions = kept
        served = set(self.models())
        for model in list(self._models.values()):
            if model not in served:
                self._spawn(self._let_go(model))
        for model in served:
            if model.source.pinned and model.channel is None:
                self._spawn(self._bring(model))

    async def _let_go(self, model: HostedModel) -> None:
        await self.loading.remove(model)
        self._models.pop(model.number, None)

    # Requests

    async def infer(self, model: HostedModel, request: Request) -> tuple[Answer, bytes]:
        """Ask a model, which is brought in first if need be.

        Raises ModelUnavailable, Overloaded, and EngineFailed when its worker dies meanwhile.
        """
        began = time.monotonic_ns()
        try:
            with model.in_use():
                channel = model.channel or await self.loading.bring(model)
                if channel.unsent > MOST_UNSENT:
                    raise Overloaded(
                        "the worker has not read yet what it was sent; try again later"
                    )
                reply, body = await channel.ask(
                    lambda number: Infer(
                        number,
                        model.number,
                        request.name,
                        model.source.version,
                        request.json_bytes,
                        request.encoding,
                        request.accept,
                    ),
                    request.body,
                )
        except ChannelClosed:
            model.statistics.fail.add(time.monotonic_ns() - began)
            raise EngineFailed(
                f"the worker of model {model.source.name} died while it had this request; "
                "it is being restarted"
            ) from None
        finally:
            self._room.freed()
        assert isinstance(reply, Answer)
        model.statistics.answered(reply, time.monotonic_ns() - began)
        return reply, body

    # Its life

    async def run(self) -> None:
        """Look after the models and workers until cancelled; then the workers end."""
        try:
            while True:
                await asyncio.sleep(TICK_SECONDS)
                self._look_after()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._room.close()

    def _look_after(self) -> None:
        if self.plan.idle_seconds is not None:
            self._room.send_idle_away(self.plan.idle_seconds)
        for runtime, worker in self._workers.items():
            if worker.process is not None:
                self._end_if_hung(worker.process)
                self._renew_if_bloated(runtime, worker, worker.process)

    def _end_if_hung(self, process: RuntimeProcess) -> None:
        lanes = self._workers[process.runtime].plan.lanes
        for work in process.works():
            limit = self.plan.infer_seconds if work.slot < lanes else self.plan.load_seconds
            if work.seconds > limit:
                name = self._name(work.model)
                logger.error("a worker has worked on %s for %.0f s and is ended", name, limit)
                process.kill()

    def _renew_if_bloated(self, runtime: str, worker: Supervisor, process: RuntimeProcess) -> None:
        """A process that keeps the memory of models which it has no more is replaced by a fresh one."""
        charged = sum(m.charge for m in self._all() if m.source.runtime == runtime)
        slack = max(LEAST_SLACK, self.plan.budget // 10)
        now = time.monotonic()
        if keeps_memory(process.rss(), process.baseline, charged, slack) and (
            now - self._renewed.get(runtime, -RENEW_PAUSE_SECONDS) >= RENEW_PAUSE_SECONDS
        ):
            logger.warning(
                "the %s worker holds %d MiB for models of %d MiB and is replaced by a fresh one",
                runtime, (process.rss() - process.baseline) // MIB, charged // MIB,
            )  # fmt: skip
            self._renewed[runtime] = now
            worker.renew()

    def _came(self, process: RuntimeProcess) -> None:
        """A worker can be asked: bring back what its predecessor had, the latest used first."""
        runtime = process.runtime
        missed = [m for m in self._all() if m.source.runtime == runtime and m.wanted_back]
        for model in sorted(missed, key=lambda m: m.last_used, reverse=True):
            model.wanted_back = False
            self._spawn(self._bring(model))

    async def _bring(self, model: HostedModel) -> None:
        """Without anybody who asks for it."""
        try:
            await self.loading.bring(model)
        except ModelUnavailable as error:
            logger.error("%s: %s", self.plan.group, error.message)

    def _went(self, process: RuntimeProcess) -> None:
        """A worker cannot be asked any more, and its models are gone with it."""
        runtime = process.runtime
        now = frozenset(work.model for work in process.works() if work.model in self._models)
        bad: frozenset[int] = frozenset()
        if not process.expected_to_end:
            bad = blamed_again(self._blamed.get(runtime, frozenset()), now)
            self._blamed[runtime] = now
        for model in self._all():
            if model.source.runtime != runtime:
                continue
            if model.number in bad:
                logger.error("%s is kept out: %s", model.source.name, QUARANTINE)
                model.quarantine(QUARANTINE)
            elif model.state is not ModelState.UNLOADED and model.channel is process.channel:
                model.move(ModelState.UNLOADED, "its worker ended")
                model.wanted_back = not process.expected_to_end
        self._room.freed()

    def _name(self, number: int) -> str:
        model = self._models.get(number)
        return model.source.name if model else "a model that is gone"

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
