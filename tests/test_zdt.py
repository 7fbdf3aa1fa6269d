"""An engine is replaced by another one beside it, and nobody who asks notices."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from stackserve.catalog.deployments import UpdateType
from stackserve.errors import RolloutFailed
from stackserve.settings import GroupSettings, MemberSettings
from stackserve.store.database import Database, open_database
from tests.conftest import Models
from tests.control.stewarded import Stewarded, stewarded
from tests.running import PATIENCE, eventually, living

SWAPS = 20
CLIENTS = 6


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path}/stackserve.db")
    yield database
    database.close()


def of(models: Models, adapter: str, start: object = None) -> GroupSettings:
    """A group with those weights under the key a."""
    member = MemberSettings(key="a", path=str(models.adapter(adapter)))
    return models.group(members=(), start=start).model_copy(update={"members": (member,)})


class Load:
    """Clients that ask `a` who it is without a pause; they stop with the block."""

    def __init__(self, served: Stewarded) -> None:
        self.heard: Counter[str] = Counter()
        self._served = served
        self._enough = False

    async def __aenter__(self) -> Load:
        self._clients = [asyncio.create_task(self._ask()) for _ in range(CLIENTS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._enough = True
        await asyncio.gather(*self._clients)

    async def _ask(self) -> None:
        while not self._enough:
            self.heard[await self._served.who()] += 1


async def test_many_swaps_under_load_lose_nothing_and_mix_nothing(
    database: Database, models: Models
) -> None:
    groups = {"one": of(models, "a"), "two": of(models, "b")}
    async with stewarded(database, "one", groups) as served:
        await served.ended(served.first_work())
        async with Load(served) as load:
            for group in itertools.islice(itertools.cycle(("two", "one")), SWAPS):
                assert await served.ended(served.update(group, UpdateType.ZDT)) == ("SUCCEEDED", "")
        assert len(served.made) == SWAPS + 1
        *gone, last = served.made
        await eventually(lambda: all(each.standing.state == "stopped" for each in gone))
        assert last.standing.state == "ready"
        assert list(served.routes.current.groups) == [last.name]
    assert len(load.heard) == 2, "both versions have answered"
    assert load.heard.total() > SWAPS


async def test_whoever_is_inside_the_old_engine_may_finish(
    database: Database, models: Models
) -> None:
    groups = {"one": of(models, "a"), "two": of(models, "b")}
    async with stewarded(database, "one", groups) as served:
        await served.ended(served.first_work())
        old = await served.who()
        slow = asyncio.create_task(served.who("slow but sure it answers"))
        await eventually(lambda: served.made[0].gate.inside == 1)
        assert await served.ended(served.update("two", UpdateType.ZDT)) == ("SUCCEEDED", "")
        assert await served.who() != old
        pid = served.made[0].status().worker_pid
        assert pid is not None, "its engine is kept for the one who is inside"
        assert await slow == old
        await eventually(lambda: not living(pid))


async def test_the_old_engine_goes_when_the_store_goes_away_at_the_worst_moment(
    database: Database, models: Models
) -> None:
    groups = {"one": of(models, "a"), "two": of(models, "b")}
    async with stewarded(database, "one", groups) as served:
        await served.ended(served.first_work())
        old = await served.who()
        work = served.update("two", UpdateType.ZDT)
        await eventually(lambda: len(served.made) == 2)
        with served.store_away():
            await served.made[1].started()
            await eventually(lambda: served.made[0].standing.state == "stopped")
            assert await served.who() != old
        assert await served.ended(work) == ("SUCCEEDED", "")
        assert len(served.made) == 2


@pytest.mark.parametrize(
    ("start", "reason"),
    [("bad options", "unrecognized arguments: --nonsense"), ("crash", "no room for the KV cache")],
)
async def test_who_waits_for_an_engine_that_cannot_start_is_told_why(
    database: Database, models: Models, start: str, reason: str
) -> None:
    async with stewarded(database, "one", {"one": of(models, "a", start)}) as served:
        await eventually(lambda: bool(served.made))
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(RolloutFailed, match=reason):
                await served.made[0].started()


async def test_who_waits_for_an_engine_is_told_that_the_server_stops(
    database: Database, models: Models
) -> None:
    async with stewarded(database, "one", {"one": of(models, "a", "never")}) as served:
        await eventually(lambda: bool(served.made))
        waiting = asyncio.create_task(served.made[0].started())
    with pytest.raises(RolloutFailed, match="the server shuts down"):
        await waiting
