"""The adapters that a worker answers for: by name towards vLLM's server, by number towards its engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from stackserve.engine import compat
from stackserve.protocol import AdapterSpec

Ask = Callable[[str, Mapping[str, Any]], Awaitable[Any]]
"""Does one of `adapter_commands.OPERATIONS` in the engine's process."""

LOOK_SECONDS = 0.02
"""Between two looks at whether an adapter has been read."""


class AdapterUnusable(Exception):
    """The engine cannot load an adapter; the message says why."""


class UnknownAdapter(Exception):
    """No adapter has this name here."""


class AdapterRegistry:
    """Owns the numbers: each adapter gets one that no other had before, so none is ever taken for
    another. Changes are made one after the other, in the order in which they were asked for.
    """

    def __init__(self, app: Any, ask: Ask) -> None:
        self._app = app
        self._ask = ask
        self._numbers: dict[str, int] = {}
        self._last = 0
        self._change = asyncio.Lock()

    async def open(
        self,
        specs: Sequence[AdapterSpec],
        preload: int,
        progress: Callable[[int], None],
    ) -> list[tuple[AdapterSpec, str]]:
        """Make all requestable and wait until the first `preload` are loaded, or have no room; those
        that cannot be loaded, and why.
        """
        failures: list[tuple[AdapterSpec, str]] = []
        coming: list[AdapterSpec] = []
        done = -1
        for position, spec in enumerate(specs):
            try:
                await self._make_known(spec, load=position < preload)
            except AdapterUnusable as error:
                failures.append((spec, str(error)))
                continue
            self._make_requestable(spec)
            coming += [spec] if position < preload else []
        while coming:
            coming, failed = await self._look(coming)
            for spec, reason in failed:
                await self._forget(spec.worker_model)
                failures.append((spec, reason))
            if done != (done := preload - len(coming)):
                progress(done)
            await asyncio.sleep(LOOK_SECONDS if coming else 0)
        return failures

    async def add(self, spec: AdapterSpec) -> None:
        """Load an adapter, then let requests name it. Raises AdapterUnusable; nothing of it stays then.

        One that is here already is left as it is, but for its weight and its pin.
        """
        async with self._change:
            if spec.worker_model in self._numbers:
                await self._tell_of(spec)
                await self._pin(spec.worker_model, spec.pinned)
                return
            await self._make_known(spec, load=True, displace=True)
            coming, failed = await self._look([spec])
            while coming:
                await asyncio.sleep(LOOK_SECONDS)
                coming, failed = await self._look([spec])
            if failed:
                await self._forget(spec.worker_model)
                raise AdapterUnusable(failed[0][1])
            self._make_requestable(spec)

    async def remove(self, worker_model: str) -> None:
        """No new request may name it; those that have are served, then its memory is freed.

        Raises UnknownAdapter.
        """
        async with self._change:
            await self._forget(worker_model)

    async def snapshot(self) -> bytes:
        """An `AdaptersSnapshot` as JSON."""
        answer: bytes = await self._ask("snapshot", {})
        return answer

    async def _make_known(self, spec: AdapterSpec, *, load: bool, displace: bool = False) -> None:
        self._last += 1
        self._numbers[spec.worker_model] = self._last
        await self._tell_of(spec, load=load, displace=displace)
        if spec.pinned:
            try:
                await self._pin(spec.worker_model, True)
            except AdapterUnusable:
                await self._forget(spec.worker_model)
                raise

    async def _forget(self, worker_model: str) -> None:
        number = self._number(worker_model)
        if compat.is_registered(self._app, worker_model):
            compat.forget_adapter(self._app, worker_model)
        del self._numbers[worker_model]
        await self._ask("remove", {"id": number})

    async def _pin(self, worker_model: str, pinned: bool) -> None:
        """Keep it on the device, or no longer. AdapterUnusable when no slot would be left for others."""
        number = self._number(worker_model)
        refusal = await self._ask("pin" if pinned else "unpin", {"id": number})
        if refusal is not None:
            raise AdapterUnusable(refusal)

    async def _tell_of(
        self, spec: AdapterSpec, *, load: bool = False, displace: bool = False
    ) -> None:
        source = [spec.worker_model, self._numbers[spec.worker_model], spec.folder]
        await self._ask(
            "add", {"source": source, "weight": spec.weight, "load": load, "displace": displace}
        )

    def _make_requestable(self, spec: AdapterSpec) -> None:
        number = self._numbers[spec.worker_model]
        compat.register_adapter(self._app, spec.worker_model, number, spec.folder)

    async def _look(
        self, specs: Sequence[AdapterSpec]
    ) -> tuple[list[AdapterSpec], list[tuple[AdapterSpec, str]]]:
        """Those that are still to be read, and those that cannot be, with the reason."""
        numbers = {self._numbers[spec.worker_model]: spec for spec in specs}
        seen = await self._ask("look", {"ids": list(numbers)})
        coming, failed = [], []
        for number, spec in numbers.items():
            is_coming, reason = seen[str(number)]
            if reason is not None:
                failed.append((spec, reason))
            elif is_coming:
                coming.append(spec)
        return coming, failed

    def _number(self, worker_model: str) -> int:
        try:
            return self._numbers[worker_model]
        except KeyError:
            raise UnknownAdapter(f"no adapter is called {worker_model} here") from None
