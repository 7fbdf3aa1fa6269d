"""The budget of bytes that a group's models share, and who must go when there is no room."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from stackserve.errors import ModelUnavailable
from stackserve.hosting.models import HostedModel, ModelState
from stackserve.hosting.residency import Resident, idle, never_fits, victims

logger = logging.getLogger(__name__)

MIB = 1 << 20

Evict = Callable[[HostedModel], Coroutine[Any, Any, None]]
"""Unload a model that is UNLOADING; it ends UNLOADED whatever happens."""


class Room:
    """Whoever comes first is made room for first: a large model is not passed by small ones for ever.

    A decision costs a walk over the group's models, which are at most 500.
    """

    def __init__(
        self,
        budget: int,
        models: Callable[[], Iterable[HostedModel]],
        evict: Evict,
        seconds: float,
    ) -> None:
        self.budget = budget
        self._models = models
        self._evict = evict
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()
        self._tidying: set[asyncio.Task[None]] = set()

    @property
    def charged(self) -> int:
        """Bytes of all models that are resident, or on their way."""
        return sum(model.charge for model in self._models())

    def freed(self) -> None:
        """A model is not in use any more, or gone."""
        self._freed.set()

    async def make(self, model: HostedModel, need: int) -> None:
        """Charge the model, which is LOADING from now on, and evict for it what must go.

        Raises ModelUnavailable when it can never fit, or does not within its time.
        """
        async with self._turn:
            going = await self._victims(model, need)
            model.move(ModelState.LOADING)
            model.charge = need
            self._begin_to_go(going)
        await asyncio.gather(*map(self._evict, going))

    async def _victims(self, model: HostedModel, need: int) -> list[HostedModel]:
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    resident = self._resident()
                    if never_fits(resident, self.budget, need):
                        raise _too_large(model, need, self.budget, resident)
                    chosen = victims(resident, self.budget, need)
                    if chosen is not None:
                        return self._by_number(chosen)
                    self._freed.clear()
                    await self._freed.wait()
        except TimeoutError:
            raise ModelUnavailable(
                "no_room",
                f"there is no room for model {model.source.name}: all that is loaded has been in use for "
                f"{self._seconds:g} s; try again later, or raise memory_mib",
                retry_after=5,
            ) from None

    def settle(self, model: HostedModel, grown: int) -> None:
        """A model was loaded and took so much; evict others if it is more than was thought.

        The next time it is let in by its estimate again: what a process grows by may have been somebody
        else's, and must not keep a model out for ever.
        """
        model.charge = max(model.charge, grown)
        self._send_away(victims(self._resident(), self.budget, 0) or ())

    def send_idle_away(self, seconds: float) -> None:
        """Evict what nobody has asked for so long."""
        self._send_away(idle(self._resident(), time.monotonic(), seconds))

    async def close(self) -> None:
        for task in self._tidying:
            task.cancel()
        await asyncio.gather(*self._tidying, return_exceptions=True)

    def _send_away(self, numbers: Iterable[int]) -> None:
        """Without anybody who waits for it."""
        going = self._by_number(numbers)
        self._begin_to_go(going)
        for model in going:
            task = asyncio.create_task(self._evict(model))
            self._tidying.add(task)
            task.add_done_callback(self._tidying.discard)

    def _begin_to_go(self, models: Iterable[HostedModel]) -> None:
        for model in models:
            logger.info("%s is evicted, %d MiB", model.source.name, model.charge // MIB)
            model.statistics.evictions += 1
            model.move(ModelState.UNLOADING)

    def _resident(self) -> list[Resident]:
        return [model.resident() for model in self._models() if model.charge]

    def _by_number(self, numbers: Iterable[int]) -> list[HostedModel]:
        models = {model.number: model for model in self._models()}
        return [models[number] for number in numbers]


def _too_large(
    model: HostedModel, need: int, budget: int, resident: Iterable[Resident]
) -> ModelUnavailable:
    pinned = sum(each.charge for each in resident if each.pinned)
    beside = f" beside {pinned // MIB} MiB of pinned models" if pinned else ""
    return ModelUnavailable(
        "model_too_large",
        f"model {model.source.name} takes about {-(-need // MIB)} MiB{beside}, and memory_mib of its group "
        f"is {budget // MIB}; raise it",
        retry_after=60,
    )
