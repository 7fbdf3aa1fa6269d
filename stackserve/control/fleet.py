"""All deployments of the store that are this gateway's, each with its steward."""

from __future__ import annotations

import asyncio
import logging

from stackserve.control.deployment import Deployment
from stackserve.control.ledger import Ledger
from stackserve.control.steward import LOOK_SECONDS, Make, Steward
from stackserve.routing.snapshot import Routes

logger = logging.getLogger(__name__)


class Fleet:
    """`run` is its whole life; cancelled, it stops what runs, which stays wanted. Its size is that of the gateway's rows in the store."""

    def __init__(self, ledger: Ledger, make: Make, routes: Routes, drain_seconds: float) -> None:
        self._ledger = ledger
        self._make = make
        self._routes = routes
        self._drain_seconds = drain_seconds
        self._stewards: dict[str, tuple[Steward, asyncio.Task[None]]] = {}
        self._poked = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.change = asyncio.Event()
        """Is set, and replaced, when another deployment runs than before."""

    def deployments(self) -> list[Deployment]:
        """What runs now."""
        stewards = (steward for steward, _ in self._stewards.values())
        return [each.deployment for each in stewards if each.deployment is not None]

    def poke(self, identifier: str = "") -> None:
        """The store has news of a deployment, or a new one. From any thread."""
        self._loop.call_soon_threadsafe(self._poke, identifier)

    def _poke(self, identifier: str) -> None:
        if identifier in self._stewards:
            self._stewards[identifier][0].poke()
        else:
            self._poked.set()

    async def run(self) -> None:
        """Give each deployment a steward, and let go of those whose rows are gone."""
        try:
            while True:
                self._poked.clear()
                await self._look()
                await self._pause()
        finally:
            tasks = [task for _, task in self._stewards.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self) -> None:
        try:
            found = await self._ledger.ids()
        except Exception:  # the database may be back the next time
            logger.exception("the store cannot be read; what runs goes on")
            return
        for identifier, (_, task) in list(self._stewards.items()):
            if task.done():
                if not task.cancelled() and (error := task.exception()):
                    logger.error("%s: its steward ended", identifier, exc_info=error)
                del self._stewards[identifier]
        for identifier in found:
            if identifier not in self._stewards:
                steward = Steward(
                    identifier,
                    self._ledger,
                    self._make,
                    self._routes,
                    self._drain_seconds,
                    self._tell,
                )
                self._stewards[identifier] = steward, asyncio.create_task(steward.run())

    def _tell(self) -> None:
        self.change.set()
        self.change = asyncio.Event()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._poked.wait()
        except TimeoutError:
            pass
