"""How models come into their workers and leave them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping

from stackserve.errors import ModelUnavailable
from stackserve.hosting.channel import Channel, ChannelClosed
from stackserve.hosting.models import Failure, HostedModel, ModelState, stamp_of
from stackserve.hosting.process import NotStarted, RuntimeProcess
from stackserve.hosting.room import Room
from stackserve.hosting.supervisor import Supervisor
from stackserve.runtimes.protocol import Estimate, Estimated, Failed, Load, Loaded, Unload

logger = logging.getLogger(__name__)

UNLOADED_BY_HAND = "it was unloaded; it is loaded again when it is asked for"
RETRY_SECONDS = 10.0
"""After which a model that could not be loaded is tried again, when it is asked for."""


class Loading:
    """Each model is loaded once, whoever asks meanwhile; several models are loaded side by side."""

    def __init__(
        self,
        workers: Mapping[str, Supervisor],
        models: Callable[[], Iterable[HostedModel]],
        budget: int,
        room_seconds: float,
    ) -> None:
        """`models` are all that share the budget, in bytes."""
        self.room = Room(budget, models, self.unload, room_seconds)
        self._workers = workers

    async def bring(self, model: HostedModel) -> Channel:
        """The way to a model that is in use: it is loaded if need be, and cannot go before its use ends.

        Raises ModelUnavailable.
        """
        if model.state is ModelState.QUARANTINED:
            raise ModelUnavailable("model_quarantined", _is(model, model.reason), retry_after=60)
        if model.channel is None:
            if model.loading is None:
                _check_failure(model.failure)
                model.loading = asyncio.create_task(self._load(model))
            await asyncio.shield(model.loading)
        if model.channel is None:
            raise ModelUnavailable("worker_died", _is(model, "its worker died"), retry_after=1)
        return model.channel

    async def load(self, model: HostedModel) -> None:
        """Whatever was found out about it before. Raises ModelUnavailable."""
        if model.state is ModelState.QUARANTINED:
            model.move(ModelState.UNLOADED)
        model.failure = None
        with model.in_use():
            await self.bring(model)

    async def remove(self, model: HostedModel) -> None:
        """Unload a model once nobody uses it; returns when it is gone."""
        while True:
            await model.unused()
            if model.state is ModelState.READY:
                model.move(ModelState.UNLOADING, UNLOADED_BY_HAND)
                await self.unload(model, UNLOADED_BY_HAND)
                return
            if model.loading is None:
                return
            await asyncio.wait((model.loading,))

    async def unload(self, model: HostedModel, reason: str = "") -> None:
        """Of a model that is UNLOADING; it ends UNLOADED, or its worker does."""
        process = self._workers[model.source.runtime].process
        try:
            if process is not None:
                with contextlib.suppress(ChannelClosed):
                    await process.channel.ask(lambda number: Unload(number, model.number))
        finally:
            if model.state is ModelState.UNLOADING:
                model.move(ModelState.UNLOADED, reason)
            self.room.freed()

    async def _load(self, model: HostedModel) -> None:
        began = time.monotonic()
        try:
            await model.gone()
            process = await self._workers[model.source.runtime].available()
            model.need = model.need or await self._estimate(model, process)
            await self.room.make(model, model.need)
            loaded = await self._loaded(model, process)
            if process.channel.closed.is_set():
                raise ChannelClosed
            model.metadata = loaded.metadata
            model.move(ModelState.READY)
            model.channel = process.channel
            model.failure = None
            model.last_used = time.monotonic()
            model.statistics.loads += 1
            model.statistics.load_seconds += time.monotonic() - began
            self.room.settle(model, loaded.grown)
        except NotStarted as error:
            raise ModelUnavailable("worker_failed", _is(model, str(error))) from None
        except ChannelClosed:
            raise ModelUnavailable(
                "worker_died", _is(model, "its worker died while it was loaded"), retry_after=1
            ) from None
        except ModelUnavailable as error:
            model.statistics.load_failures += 1
            if error.code not in ("no_room", "model_too_large"):
                model.failure = Failure(error.code, error.message, time.monotonic())
            raise
        finally:
            model.loading = None
            if model.state is ModelState.LOADING:
                failure = model.failure
                model.move(ModelState.UNLOADED, failure.message if failure else "")
                self.room.freed()

    async def _estimate(self, model: HostedModel, process: RuntimeProcess) -> int:
        source = model.source
        reply, _ = await process.channel.ask(
            lambda number: Estimate(number, model.number, str(source.folder), dict(source.options))
        )
        if isinstance(reply, Failed):
            raise ModelUnavailable(reply.code, _is(model, reply.message))
        assert isinstance(reply, Estimated)
        return reply.num_bytes

    async def _loaded(self, model: HostedModel, process: RuntimeProcess) -> Loaded:
        source = model.source
        await asyncio.to_thread(_check_files, model)
        reply, _ = await process.channel.ask(
            lambda number: Load(
                number, model.number, str(source.folder), dict(source.options), source.batching
            )
        )
        if isinstance(reply, Failed):
            raise ModelUnavailable(reply.code, _is(model, reply.message))
        assert isinstance(reply, Loaded)
        return reply


def _check_files(model: HostedModel) -> None:
    """Else another model than the one that was read would answer under its name."""
    if stamp_of(model.source.folder) != model.source.stamp:
        raise ModelUnavailable(
            "files_changed",
            _is(model, f"the files in {model.source.folder.name} have changed; reload the group"),
        )


def _check_failure(failure: Failure | None) -> None:
    if failure is not None and time.monotonic() - failure.at < RETRY_SECONDS:
        raise ModelUnavailable(failure.code, failure.message)


def _is(model: HostedModel, why: str) -> str:
    return f"failed to load {model.source.name!r}: {why}"
