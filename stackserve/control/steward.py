"""Brings one deployment of the store to what is wanted of it, and tells the store how it is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

from stackserve.control.deployment import Deployment
from stackserve.control.desired import Content, Step, Wish, lifecycle, next_step
from stackserve.control.ledger import Ledger
from stackserve.control.states import DeploymentState
from stackserve.control.tasks import first_of
from stackserve.control.update import NotLive, difference
from stackserve.errors import RolloutFailed, StackserveError, StoreUnavailable
from stackserve.routing.snapshot import Routes
from stackserve.settings import GroupSettings

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""How often the store is read when nobody says that it changed: another gateway may have written."""

Make = Callable[[GroupSettings, str, Routes], Deployment]
"""A deployment of these settings, under an OCID, that publishes its routes there."""


@dataclass(frozen=True)
class Running:
    """A deployment, its life, and what it was last brought to."""

    deployment: Deployment
    life: asyncio.Task[None]
    content: Content


class Steward:
    """Owned by the fleet; `run` is its whole life, which ends with the deployment's row."""

    def __init__(
        self,
        identifier: str,
        ledger: Ledger,
        make: Make,
        routes: Routes,
        drain_seconds: float,
        changed: Callable[[], None],
    ) -> None:
        self.id = identifier
        self._ledger = ledger
        self._make = make
        self._routes = routes
        self._drain_seconds = drain_seconds
        self._changed = changed
        self._running: Running | None = None
        self._poked = asyncio.Event()

    @property
    def deployment(self) -> Deployment | None:
        """What runs now."""
        return self._running.deployment if self._running else None

    def poke(self) -> None:
        """The store has news for it."""
        self._poked.set()

    async def run(self) -> None:
        """Until the row is gone. Cancelled, it ends its deployment and leaves the row as it is."""
        try:
            while True:
                self._poked.clear()
                try:
                    wish = await self._ledger.wish(self.id)
                    if wish is None or await self._take(wish) is Step.FORGET:
                        return
                except StoreUnavailable as error:  # it may be back the next time
                    logger.error("%s: %s; what runs goes on", self.id, error.message)
                    await self._news()
        finally:
            await self._end()

    async def _take(self, wish: Wish) -> Step:
        running = self._running
        step = next_step(wish, running.content if running else None)
        try:
            await self._do(step, wish)
        except StoreUnavailable:
            raise
        except RolloutFailed as error:
            logger.warning("%s: not updated: %s", wish.name, error.message)
            await self._ledger.update_failed(wish, error)
            if self.deployment is not None:
                self.deployment.standing.note(f"not updated: {error.message}")
        except StackserveError as error:
            logger.error("%s: %s (%s)", wish.name, error.message, error.code)
            await self._ledger.failed(wish, error)
            await self._news()
        except Exception as error:  # else the deployment would be without anybody who cares for it
            logger.exception("%s: its steward stumbled", wish.name)
            await self._ledger.failed(
                wish, StackserveError(f"an internal error ({error!r}); the server's log says more")
            )
            await self._news()
        return step

    async def _do(self, step: Step, wish: Wish) -> None:
        match step:
            case Step.START:
                await self._start(wish)
            case Step.SWITCH:
                await self._switch(wish)
            case Step.REPLACE:
                await self._replace(wish)
            case Step.STOP:
                await self._stop()
            case Step.FORGET:
                await self._ledger.forget(self.id)
            case Step.REST:
                await self._rest(wish)

    async def _start(self, wish: Wish) -> None:
        """Not waited for: how it goes is told while `_rest`ing."""
        content = wish.served or wish.content
        await self._ledger.began(wish)
        try:
            settings = await self._ledger.settings(wish, content)
        except StackserveError as error:
            if isinstance(error, StoreUnavailable) or content == wish.content:
                raise
            logger.error("%s: what it served cannot be served: %s", wish.name, error.message)
            content = wish.content
            settings = await self._ledger.settings(wish, content)
        self._run(self._begin(settings, content, self._routes))

    def _begin(self, settings: GroupSettings, content: Content, routes: Routes) -> Running:
        deployment = self._make(settings, self.id, routes)
        return Running(deployment, asyncio.create_task(deployment.run()), content)

    async def _switch(self, wish: Wish) -> None:
        """All or nothing, on the running engine once it answers; if it cannot, another one is started."""
        running = self._running
        assert running is not None
        deployment = running.deployment
        if deployment.gate.endpoint is None:
            if deployment.standing.state is DeploymentState.FAILED:
                await self._replace(wish)
            else:
                await self._tell(wish, deployment, updating=True)
            return
        await self._ledger.began(wish)
        before = deployment.wanted
        with _failing_as_rollout():
            settings = await self._ledger.settings(wish, wish.content)
            group = await deployment.read(settings)
            await deployment.switch(group)
        changes = difference(before, group) if before else ""
        deployment.standing.note(
            f"{changes or 'nothing changed'}; {deployment.status().served} served"
        )
        self._run(Running(deployment, running.life, wish.content))
        await self._ledger.served(wish)

    async def _replace(self, wish: Wish) -> None:
        """A new engine is brought up unseen, takes the routes, and then the old one may go."""
        old = self._running
        assert old is not None
        await self._ledger.began(wish)
        with _failing_as_rollout():
            new = await self._another(wish)
        if new is None:
            return
        old.deployment.withdraw()
        new.deployment.go_live(self._routes)
        self._run(new)
        async with AsyncExitStack() as at_last:  # whatever the store says, the old one goes
            at_last.push_async_callback(_cancelled, old.life)
            at_last.push_async_callback(old.deployment.drain, self._drain_seconds)
            await self._ledger.served(wish)

    async def _another(self, wish: Wish) -> Running | None:
        """An engine with all that is wanted, which answers and is known to nobody; None when something
        else is wanted by then.
        """
        settings = await self._ledger.settings(wish, wish.content)
        new = self._begin(settings, wish.content, Routes())
        async with AsyncExitStack() as in_vain:
            in_vain.push_async_callback(_cancelled, new.life)
            await first_of(new.deployment.started(), self._wanted_no_more(wish))
            status = new.deployment.status()
            if status.refused:
                raise RolloutFailed({each.key: each.message for each in status.refused})
            if status.state is DeploymentState.READY:
                in_vain.pop_all()
                return new
        return None

    async def _wanted_no_more(self, wish: Wish) -> None:
        """Wait until something else is wanted, such as an end."""
        while True:
            await self._news()
            self._poked.clear()
            with contextlib.suppress(StoreUnavailable):
                now = await self._ledger.wish(self.id)
                if now is None or (now.state, now.content) != (wish.state, wish.content):
                    return

    async def _stop(self) -> None:
        running = self._running
        assert running is not None
        running.deployment.gate.shut("it is being deactivated")
        await running.deployment.drain(self._drain_seconds)
        await self._end()
        self._routes.remove(running.deployment.name)

    async def _end(self) -> None:
        if self._running is not None:
            life = self._running.life
            self._run(None)
            await _cancelled(life)

    def _run(self, running: Running | None) -> None:
        self._running = running
        self._changed()

    async def _rest(self, wish: Wish) -> None:
        """Tell how it is, until something changes."""
        if self.deployment is not None:
            await self._tell(wish, self.deployment, updating=False)
            return
        await self._ledger.stopped(wish)
        await self._news()

    async def _tell(self, wish: Wish, deployment: Deployment, *, updating: bool) -> None:
        change, status = deployment.standing.change, deployment.status()
        await self._ledger.tell(wish, status, lifecycle(status, updating=updating))
        await self._news(change)

    async def _news(self, change: asyncio.Event | None = None) -> None:
        """Wait for a poke, for a change of what runs, or until it is time to look."""
        waits = [self._poked.wait()] if change is None else [self._poked.wait(), change.wait()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await first_of(*waits)


@contextlib.contextmanager
def _failing_as_rollout() -> Iterator[None]:
    """Whatever stops an update is a failed update, which is not tried again: what is served goes on."""
    try:
        yield
    except (RolloutFailed, StoreUnavailable):
        raise
    except NotLive as error:
        raise RolloutFailed({"": f"{error.reason}; use updateType ZDT"}) from error
    except StackserveError as error:
        raise RolloutFailed({"": f"{error.message} ({error.code})"}) from error
    except Exception as error:
        logger.exception("an update broke")
        sentence = f"an internal error ({error!r}); the server's log says more"
        raise RolloutFailed({"": sentence}) from error


async def _cancelled(life: asyncio.Task[None]) -> None:
    life.cancel()
    await asyncio.gather(life, return_exceptions=True)
