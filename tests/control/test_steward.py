"""A steward brings a deployment of the store to what is wanted, whatever breaks on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from stackserve.catalog.deployments import UpdateType
from stackserve.control import steward as steward_module
from stackserve.errors import ArtifactRejected
from stackserve.settings import GroupSettings, MemberSettings
from stackserve.store.database import Database, open_database
from tests.conftest import Models
from tests.control.stewarded import stewarded
from tests.running import eventually

LIVE, ZDT = UpdateType.LIVE, UpdateType.ZDT
REFUSING = {"puts": {"a": "refuse"}}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path}/stackserve.db")
    yield database
    database.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steward_module, "LOOK_SECONDS", 0.05)


def of(models: Models, adapter: str | None, start: Any = None, **engine: Any) -> GroupSettings:
    """A group with those weights under the key a."""
    group = models.group(members=(), start=start, adapter_slots=2, **engine)
    path = adapter and str(models.adapter(adapter))
    members = (MemberSettings(key="a", path=path),) if path else ()
    return group.model_copy(update={"members": members})


@pytest.mark.parametrize(
    ("kind", "one", "two", "reason"),
    [
        (LIVE, REFUSING, REFUSING, "a: RuntimeError: no"),
        (ZDT, None, "bad options", "unrecognized arguments: --nonsense"),
        (ZDT, None, {"refuses": "a"}, "a: the engine could not load it"),
    ],
    ids=["not taken", "no engine", "not loaded"],
)
async def test_an_update_that_fails_leaves_what_is_served(
    database: Database, models: Models, kind: UpdateType, one: Any, two: Any, reason: str
) -> None:
    groups = {"one": of(models, "a", one), "two": of(models, "b", two)}
    async with stewarded(database, "one", groups) as served:
        assert await served.ended(served.first_work()) == ("SUCCEEDED", "")
        before = await served.who()
        status, error = await served.ended(served.update("two", kind))
        assert (status, reason in error) == ("FAILED", True), error
        assert await served.who() == before
        row = served.row()
        assert row is not None
        assert (row.group_id, row.wanted_group_id, row.lifecycle_state) == ("one", "one", "ACTIVE")
        assert reason in row.lifecycle_details


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ({"adapter": None}, {"adapter": "a"}, "started without any adapter and takes none"),
        ({"adapter": "a"}, {"adapter": "b", "seed": 7}, "engine.seed changed"),
    ],
)
async def test_a_live_update_that_no_running_engine_can_follow_says_zdt(
    database: Database,
    models: Models,
    before: dict[str, Any],
    after: dict[str, Any],
    reason: str,
) -> None:
    groups = {"one": of(models, **before), "two": of(models, **after)}
    async with stewarded(database, "one", groups) as served:
        await served.ended(served.first_work())
        status, error = await served.ended(served.update("two", LIVE))
        assert status == "FAILED"
        assert reason in error
        assert "use updateType ZDT" in error
        assert served.state() == "ACTIVE"
        assert await served.ended(served.update("two", ZDT)) == ("SUCCEEDED", "")
        assert await served.who()


async def test_what_never_served_is_replaced_without_standing_in_the_way(
    database: Database, models: Models
) -> None:
    groups = {
        "bad": of(models, "a", "bad options"),
        "worse": of(models, "b", "crash"),
        "good": of(models, "a"),
    }
    async with stewarded(database, "bad", groups) as served:
        assert (await served.ended(served.first_work()))[0] == "FAILED"
        assert (await served.ended(served.update("worse", ZDT)))[0] == "FAILED"
        assert served.state() == "FAILED"
        assert len(served.made) == 2, "what failed is not tried again and again"
        assert await served.ended(served.update("good", LIVE)) == ("SUCCEEDED", "")
        assert served.state() == "ACTIVE"
        assert await served.who()


async def test_a_deletion_is_not_held_up_by_an_engine_that_does_not_start(
    database: Database, models: Models
) -> None:
    groups = {"one": of(models, "a"), "two": of(models, "b", "never")}
    async with stewarded(database, "one", groups) as served:
        await served.ended(served.first_work())
        update = served.update("two", ZDT)
        await eventually(lambda: len(served.made) == 2)
        deletion = served.delete()
        assert await served.ended(deletion) == ("SUCCEEDED", "")
        assert (served.status(update), served.state()) == ("CANCELED", "gone")
        assert not served.routes.current.groups


async def test_a_deletion_does_not_fail_with_the_update_that_it_cancels(
    database: Database, models: Models
) -> None:
    order = {"puts": {"a": "wait"}, "probe": "a"}
    groups = {"one": of(models, "a", order), "two": of(models, "b", order)}
    async with stewarded(database, "one", groups) as served:
        await served.ended(served.first_work())
        update = served.update("two", LIVE)

        async def put() -> bool:
            return b"PUT a" in await served.ask_worker("GET", "/known")

        await eventually(put)
        deletion = served.delete()
        await served.ask_worker("POST", "/go")
        assert await served.ended(deletion) == ("SUCCEEDED", "")
        assert (served.status(update), served.state()) == ("CANCELED", "gone")


async def test_an_engine_goes_on_while_the_store_is_away(
    database: Database, models: Models
) -> None:
    groups = {"one": of(models, "a"), "two": of(models, "b")}
    async with stewarded(database, "one", groups) as served:
        await served.ended(served.first_work())
        before, pid = await served.who(), served.made[0].status().worker_pid
        with served.store_away() as away:
            await eventually(lambda: away.call_count > 2)
            assert await served.who() == before
        assert await served.ended(served.update("two", LIVE)) == ("SUCCEEDED", "")
        assert await served.who() != before
        assert (len(served.made), served.made[0].status().worker_pid) == (1, pid)


async def test_a_store_at_rest_is_not_written_to(database: Database, models: Models) -> None:
    def spy(name: str) -> Any:
        method = getattr(Database, name)
        return mock.patch.object(Database, name, autospec=True, side_effect=method)

    async with stewarded(database, "one", {"one": of(models, "a")}) as served:
        await served.ended(served.first_work())
        with spy("read") as reads, spy("transact") as writes:
            await eventually(lambda: reads.call_count > 2)
            writes.reset_mock()
            reads.reset_mock()
            await eventually(lambda: reads.call_count > 4)
            assert not writes.called


async def test_what_is_deactivated_twice_is_inactive_twice(
    database: Database, models: Models
) -> None:
    async with stewarded(database, "one", {"one": of(models, "a")}) as served:
        await served.ended(served.first_work())
        for _ in range(2):
            assert await served.ended(served.deactivate()) == ("SUCCEEDED", "")
            assert (served.state(), dict(served.routes.current.groups)) == ("INACTIVE", {})
            assert await served.ended(served.activate()) == ("SUCCEEDED", "")
            assert served.state() == "ACTIVE"
            assert await served.who()


async def test_damage_to_what_was_served_does_not_stand_in_the_way_of_an_update(
    database: Database, models: Models
) -> None:
    groups: dict[str, Any] = {"one": of(models, "a"), "two": of(models, "b")}
    async with stewarded(database, "one", groups) as served:
        await served.ended(served.first_work())
        await served.ended(served.deactivate())
        served.groups["one"] = ArtifactRejected("artifact_damaged", "it is damaged")
        assert await served.ended(served.activate()) == (
            "FAILED",
            "it is damaged",
        )
        assert await served.ended(served.update("two", LIVE)) == ("SUCCEEDED", "")
        assert await served.who()
