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
    another. `public` are the inference keys of the names, for who writes answers.
    """

    def __init__(self, app: Any, ask: Ask) -> None:
        self.public: dict[str, str] = {}
        self._app = app
        self._ask = ask
        self._numbers: dict[str, int] = {}
        self._last = 0

    def __contains__(self, worker_model: str) -> bool:
        return worker_model in self._numbers

    async def open(
        self,
        specs: Sequence[AdapterSpec],
        preload: int,
        progress: Callable[[int], None],
    ) -> list[tuple[AdapterSpec, str]]:
        """Make all requestable and wait until the first `preload` are loaded, or have no room; those
        that cannot be loaded, and why.
        """
        for position, spec in enumerate(specs):
            await self._make_known(spec, load=position < preload)
            self._make_requestable(spec)
        failures: list[tuple[AdapterSpec, str]] = []
        coming, done = list(specs[:preload]), -1
        while coming:
            coming, failed = await self._look(coming)
            failures += failed
            if done != (done := preload - len(coming)):
                progress(done)
            await asyncio.sleep(LOOK_SECONDS if coming else 0)
        for spec, _ in failures:
            await self.remove(spec.worker_model)
        return failures

    async def add(self, spec: AdapterSpec) -> None:
        """Load an adapter, then let requests name it. Raises AdapterUnusable; nothing of it stays then.

        One that is here already is left as it is, but for its weight and its pin.
        """
        is_new = spec.worker_model not in self._numbers
        if is_new:
            await self._make_known(spec, load=True, displace=True)
            coming, failed = await self._look([spec])
            while coming:
                await asyncio.sleep(LOOK_SECONDS)
                coming, failed = await self._look([spec])
            if failed:
                await self.remove(spec.worker_model)
                raise AdapterUnusable(failed[0][1])
            self._make_requestable(spec)
        else:
            await self._tell_of(spec)
            await self.pin(spec.worker_model, spec.pinned)

    async def remove(self, worker_model: str) -> None:
        """No new request may name it; those that have are served, then its memory is freed.

        Raises UnknownAdapter.
        """
        number = self._number(worker_model)
        if compat.is_registered(self._app, worker_model):
            compat.forget_adapter(self._app, worker_model)
        del self._numbers[worker_model]
        await self._ask("remove", {"id": number})

    async def pin(self, worker_model: str, pinned: bool) -> None:
        """Keep it on the device, or no longer. Raises UnknownAdapter; AdapterUnusable when the others
        would be left without a slot.
        """
        number = self._number(worker_model)
        refusal = await self._ask("pin" if pinned else "unpin", {"id": number})
        if refusal is not None:
            raise AdapterUnusable(refusal)

    async def snapshot(self) -> bytes:
        """An `AdaptersSnapshot` as JSON."""
        answer: bytes = await self._ask("snapshot", {})
        return answer

    async def _make_known(self, spec: AdapterSpec, *, load: bool, displace: bool = False) -> None:
        self._last += 1
        self._numbers[spec.worker_model] = self._last
        await self._tell_of(spec, load=load, displace=displace)
        if spec.pinned:
            await self.pin(spec.worker_model, True)

    async def _tell_of(
        self, spec: AdapterSpec, *, load: bool = False, displace: bool = False
    ) -> None:
        source = [spec.worker_model, self._numbers[spec.worker_model], spec.folder]
        await self._ask(
            "add", {"source": source, "weight": spec.weight, "load": load, "displace": displace}
        )

    def _make_requestable(self, spec: AdapterSpec) -> None:
        self.public[spec.worker_model] = spec.key
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
