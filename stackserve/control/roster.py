"""The adapters that one living worker knows, and how it comes to know those that it should."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import aiohttp

from stackserve.control.tasks import first_of
from stackserve.control.update import plan_update
from stackserve.protocol import AdapterSpec
from stackserve.routing.gate import Endpoint, Gate
from stackserve.workers.adapters import AdapterNotTaken, delete_adapter, probe_model, put_adapter

logger = logging.getLogger(__name__)

PROBES_AT_ONCE = 8


class Roster:
    """Made for a worker from what it is started with, and of no use for the next.

    An update is `load`, then the swap of the routes, then `adjust`, then `forget`. One task does them
    all, one after the other. Whatever breaks off, doing them again completes it: each begins with what
    the worker knows and ends with what is wanted. They raise what aiohttp raises when the worker is gone.
    """

    def __init__(self, group: str, specs: Iterable[AdapterSpec]) -> None:
        self._group = group
        self._known = {spec.worker_model: spec for spec in specs}
        self._refused: dict[str, tuple[str, str]] = {}
        """By name in the worker: the key, and why."""

    def refuses(self, worker_model: str) -> bool:
        """Whether the engine could not load it."""
        return worker_model in self._refused

    def failed(self, key: str, reason: str) -> None:
        """The worker says at its start that it could not load a key's adapter."""
        name = next(each.worker_model for each in self._known.values() if each.key == key)
        self._refuse(self._known.pop(name), reason)

    def forgive(self) -> None:
        """Try those again that the engine refused: an update was asked for, and they are still wanted."""
        self._refused.clear()

    async def load(
        self,
        session: aiohttp.ClientSession,
        wanted: Mapping[str, AdapterSpec],
        report: Callable[[str], None],
    ) -> None:
        """Have the worker load what is new to it; what it cannot load is refused, and the rest goes on."""
        new = [
            each
            for each in plan_update(self._known, wanted).load
            if not self.refuses(each.worker_model)
        ]
        for number, spec in enumerate(new):
            report(f"loading adapters, {number} of {len(new)}")
            try:
                await put_adapter(session, spec)
                self._known[spec.worker_model] = spec
            except AdapterNotTaken as error:
                self._refuse(spec, str(error))

    async def probe(
        self, endpoint: Endpoint, specs: Sequence[AdapterSpec], report: Callable[[str], None]
    ) -> dict[str, str]:
        """Have each adapter compute one token; by key, why some cannot."""
        turn, failures = asyncio.Semaphore(PROBES_AT_ONCE), {}

        async def probe(spec: AdapterSpec) -> None:
            async with turn:
                reason = await probe_model(endpoint.session, spec.worker_model, endpoint.tasks)
            if reason is not None:
                failures[spec.key] = reason

        report(f"probing {len(specs)} adapters")
        await asyncio.gather(*map(probe, specs))
        return failures

    def refusals(self, wanted: Iterable[str]) -> dict[str, str]:
        """Of those names in the worker, by key: why the engine could not load some."""
        return dict(self._refused[name] for name in wanted if name in self._refused)

    async def adjust(
        self, session: aiohttp.ClientSession, wanted: Mapping[str, AdapterSpec]
    ) -> None:
        """Give shares and pins, after pins that are given up."""
        for spec in plan_update(self._known, wanted).adjust:
            try:
                await put_adapter(session, spec)
            except AdapterNotTaken as error:
                logger.error("%s: share or pin of %s not changed: %s", self._group, spec.key, error)
            self._known[spec.worker_model] = spec

    async def forget(
        self,
        session: aiohttp.ClientSession,
        wanted: Mapping[str, AdapterSpec],
        gate: Gate,
        news: asyncio.Event,
    ) -> None:
        """Have the worker forget each that is not wanted once no request uses it, and return when all
        are forgotten or `news` is set. The routes must no longer have their names: see `Gate.uses`.
        """
        while leaving := plan_update(self._known, wanted).forget:
            for name in leaving:
                if not gate.uses(name):
                    await self._forget(session, name)
            used = [gate.unused(name) for name in leaving if name in self._known]
            if used:
                await first_of(*used, news.wait())
            if news.is_set():
                return

    async def _forget(self, session: aiohttp.ClientSession, name: str) -> None:
        try:
            await delete_adapter(session, name)
        except AdapterNotTaken as error:
            logger.error("%s: its worker did not forget %s: %s", self._group, name, error)
        del self._known[name]

    def _refuse(self, spec: AdapterSpec, reason: str) -> None:
        logger.error("%s: the engine refused %s: %s", self._group, spec.key, reason)
        self._refused[spec.worker_model] = spec.key, reason
