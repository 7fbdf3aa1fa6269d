"""Members change while a gateway serves: nothing that was accepted is lost, and the last word holds."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stackserve.errors import ConfigError
from stackserve.settings import BaseSettings, GroupSettings, MemberSettings
from tests.conftest import Models
from tests.running import PATIENCE, Running, eventually, running
from tests.tiny_models import Adapters, default_tensors, write_base


@pytest.fixture
def group(models: Models) -> GroupSettings:
    """Members a and b in two slots."""
    return models.group(members=("a", "b"), adapter_slots=2)


def with_members(
    group: GroupSettings, models: Models, names: str, **more: dict[str, Any]
) -> GroupSettings:
    """The group with other members, for instance `"a=a2 b"`: the key a with the weights a2, and b."""
    members = []
    for name in names.split():
        key, _, weights = name.partition("=")
        path = str(models.adapter(weights or key))
        members.append(MemberSettings(key=key, path=path, **more.get(key, {})))
    return group.model_copy(update={"members": tuple(members)})


async def answer(gateway: Running, model: str, words: str = "hello") -> tuple[int, str]:
    """The status, and the name by which the worker knows the model or the error's code."""
    async with gateway.chat(words, model=model) as response:
        body = await response.json()
    return response.status, str(body["model"] if response.ok else body["error"]["code"])


async def known(gateway: Running) -> Counter[str]:
    """How many adapters the worker knows of each key."""
    return Counter(spec["key"] for spec in (await gateway.ask_worker("/known"))["known"])


async def changes(gateway: Running) -> list[str]:
    """What the worker was asked to change, in order."""
    asked: list[str] = (await gateway.ask_worker("/known"))["changes"]
    return asked


async def wait_for_put(gateway: Running, key: str) -> None:
    async def put() -> bool:
        return f"PUT {key}" in await changes(gateway)

    await eventually(put)


async def test_members_are_added_replaced_and_removed_in_the_same_worker(
    models: Models, group: GroupSettings
) -> None:
    async with running(group) as gateway:
        before = gateway.status()
        _, old = await answer(gateway, "a")
        (update,) = await gateway.update(with_members(group, models, "a=a2 c"))
        after = gateway.status()
        _, new = await answer(gateway, "a")
        assert new.startswith("a@")
        assert new != old
        assert (await answer(gateway, "c"))[0] == 200
        assert await answer(gateway, "b") == (404, "model_not_found")
        assert (update.outcome, update.sentence) == (
            "updated", "1 added, 1 replaced, 1 removed; 3 served",
        )  # fmt: skip
        assert after.worker_pid == before.worker_pid
        assert after.version != before.version

        async def only_the_new_are_left() -> bool:
            return await known(gateway) == {"a": 1, "c": 1}

        await eventually(only_the_new_are_left)


async def test_a_file_without_changes_changes_nothing(models: Models, group: GroupSettings) -> None:
    async with running(group) as gateway:
        before = gateway.status()
        (update,) = await gateway.update(group)
        assert (update.outcome, update.sentence) == ("unchanged", "nothing changed; 3 served")
        assert gateway.status().version == before.version
        assert await changes(gateway) == []


async def test_weights_that_changed_in_their_folder_are_replaced(
    models: Models, group: GroupSettings, tmp_path: Path
) -> None:
    make = Adapters(tmp_path).make
    member = MemberSettings(key="a", path=str(make()))
    group = group.model_copy(update={"members": (member,)})
    async with running(group) as gateway:
        _, old = await answer(gateway, "a")
        folder = Path(str(member.path))
        make({"base_model_name_or_path": "retrained"}).joinpath("adapter_config.json").rename(
            folder / "adapter_config.json"
        )
        (update,) = await gateway.update(group)
        assert update.sentence == "1 replaced; 2 served"
        assert (await answer(gateway, "a"))[1] != old


async def test_a_stream_ends_on_the_weights_that_it_began_with(
    models: Models, group: GroupSettings
) -> None:
    async with running(group) as gateway:
        old_name = (await answer(gateway, "a"))[1]
        stream = await gateway.begun("slow but sure it goes on")
        await gateway.update(with_members(group, models, "a=a2"))
        status, new_name = await answer(gateway, "a")
        assert (status, new_name != old_name) == (200, True)
        assert (await known(gateway))["a"] == 2, "the stream still uses the old"
        assert (await known(gateway))["b"] == 0, "and does not hold others back"
        rest = await stream.read()
        assert rest.endswith(b"[DONE]\n\n")
        assert rest.count(old_name.encode()) == 5

        async def old_is_gone() -> bool:
            return (await known(gateway))["a"] == 1

        await eventually(old_is_gone)


async def test_no_request_for_a_kept_or_replaced_key_is_lost_in_many_updates(
    models: Models, group: GroupSettings
) -> None:
    """The fake worker takes a while to know an adapter, and looks a `late` request's model up only after
    a while: if the routes changed before the one or a name were forgotten before the other, it would
    answer 404.
    """
    seen: dict[str, Counter[str]] = {"a": Counter(), "b": Counter()}
    over = asyncio.Event()

    async def hammer(gateway: Running, key: str, words: str) -> None:
        while not over.is_set():
            async with gateway.chat(words, model=key) as response:
                body = await response.json()
                assert response.status == 200, body
                digest = response.headers["x-stackserve-adapter-sha256"]
            assert body["model"] == f"{key}@{digest}"
            seen[key][digest] += 1

    async with running(group) as gateway, asyncio.TaskGroup() as hammers:
        for key, words in [("a", "late"), ("a", "hello"), ("b", "late"), ("b", "hello")] * 4:
            hammers.create_task(hammer(gateway, key, words))
        for number in range(20):
            names = "a=a2 b c" if number % 2 == 0 else "a b"
            await gateway.update(with_members(group, models, names))
            assert (await answer(gateway, "c"))[0] == (200 if number % 2 == 0 else 404)
        over.set()
    assert len(seen["a"]) == 2
    assert len(seen["b"]) == 1
    assert sum(seen["a"].values()) > 40


async def test_what_the_engine_refuses_is_not_served_and_the_rest_is(models: Models) -> None:
    orders = {"puts": {"c": "refuse", "a": "refuse"}}
    group = models.group(members=("a", "b"), start=orders)
    async with running(group) as gateway:
        (update,) = await gateway.update(with_members(group, models, "a=a2 b c d"))
        assert update.sentence == "2 added, 1 replaced; 3 served, 2 refused"
        assert {each.key: each.code for each in gateway.status().refused} == {
            "a": "adapter_engine_refused",
            "c": "adapter_engine_refused",
        }
        for key, status in {"a": 404, "b": 200, "c": 404, "d": 200}.items():
            assert (await answer(gateway, key))[0] == status
        await gateway.update(with_members(group, models, "a=a2 b c d"))
        assert (await changes(gateway)).count("PUT c") == 2, "an update tries it again"
        await gateway.update(with_members(group, models, "b d"))
        assert not gateway.status().refused


async def test_what_validation_refuses_is_not_served_and_the_rest_is(
    models: Models, group: GroupSettings
) -> None:
    bad = MemberSettings(key="c", path="/nowhere/c")
    async with running(group) as gateway:
        changed = group.model_copy(update={"members": (group.members[0], bad)})
        (update,) = await gateway.update(changed)
        assert update.sentence == "1 removed, 1 refused; 2 served, 1 refused"
        assert await answer(gateway, "c") == (404, "model_refused")
        assert (await answer(gateway, "a"))[0] == 200


async def test_a_bad_adapter_does_not_take_the_place_of_a_good_one(
    models: Models, group: GroupSettings, caplog: pytest.LogCaptureFixture
) -> None:
    bad = MemberSettings(key="a", path="/nowhere/a")
    async with running(group) as gateway:
        before = await changes(gateway)
        changed = group.model_copy(update={"members": (bad, group.members[1])})
        (update,) = await gateway.update(changed)
        assert update.sentence == "nothing changed; 3 served"
        assert (await answer(gateway, "a"))[0] == 200
        assert await changes(gateway) == before
    assert "a goes on with the adapter that it has" in caplog.text


async def test_shares_and_pins_change_alone(models: Models, group: GroupSettings) -> None:
    changed = with_members(group, models, "a b", a={"pinned": True}, b={"share": 3})
    async with running(group) as gateway:
        (update,) = await gateway.update(changed)
        told = (await gateway.ask_worker("/known"))["known"]
        assert {each["key"]: (each.get("weight", 1), each.get("pinned")) for each in told} == {
            "a": (1, True),
            "b": (3, False),
        }
        assert update.sentence == "2 adjusted; 3 served"
        assert sorted(await changes(gateway)) == ["PUT a pinned", "PUT b"]


async def test_a_pinned_key_is_replaced_without_two_pins_at_once(
    models: Models, group: GroupSettings
) -> None:
    pinned = {"a": {"pinned": True}}
    async with running(with_members(group, models, "a b", **pinned)) as gateway:
        await gateway.update(with_members(group, models, "a=a2 b", **pinned))

        async def forgotten() -> bool:
            return "DELETE a" in await changes(gateway)

        await eventually(forgotten)
        assert await changes(gateway) == ["PUT a", "PUT a", "PUT a pinned", "DELETE a"]


@pytest.mark.parametrize("order", ["die", "wait"])
async def test_a_worker_that_dies_in_an_update_comes_back_with_the_new_members(
    models: Models, order: str
) -> None:
    group = models.group(members=("a", "b"), start={"puts": {"c": order}})
    async with running(group) as gateway:
        first = gateway.status().worker_pid
        assert first is not None
        updating = asyncio.create_task(gateway.update(with_members(group, models, "a=a2 c")))
        if order == "wait":
            await wait_for_put(gateway, "c")
            os.kill(first, signal.SIGKILL)
        (update,) = await asyncio.wait_for(updating, PATIENCE)
        assert update.outcome == "updated"
        await gateway.until("ready")
        assert gateway.status().worker_pid != first
        assert (await answer(gateway, "c"))[0] == 200
        assert await answer(gateway, "b") == (404, "model_not_found")
        assert await known(gateway) == {"a": 1, "c": 1}
        assert await changes(gateway) == []


async def test_an_update_while_the_worker_starts_holds_before_it_answers(
    models: Models, group: GroupSettings
) -> None:
    async with running(group, until="starting") as gateway:
        (update,) = await gateway.update(with_members(group, models, "a c"))
        assert (gateway.status().state, update.outcome) == ("starting", "updated")
        assert await answer(gateway, "b") == (404, "model_not_found")
        assert await answer(gateway, "c") == (503, "group_not_ready")
        await gateway.until("ready")
        assert (await answer(gateway, "c"))[0] == 200
        assert (await changes(gateway))[0] == "PUT c"


async def test_an_update_overtakes_one_that_a_starting_worker_is_busy_with(models: Models) -> None:
    group = models.group(start={"puts": {"c": "wait"}})
    async with running(group, until="starting") as gateway:
        await gateway.update(with_members(group, models, "a c e"))
        await eventually(lambda: gateway.status().detail == "loading adapters, 0 of 2")
        await gateway.update(with_members(group, models, "a d"))
        wanted = gateway.status().version
        await gateway.release_worker()
        await gateway.until("ready")
        assert gateway.status().version == wanted
        assert gateway.status().update == "1 added, 2 removed; 3 served"
        assert (await answer(gateway, "d"))[0] == 200
        assert await answer(gateway, "c") == (404, "model_not_found")


async def test_an_update_while_the_group_is_first_read_takes_its_place(
    models: Models, group: GroupSettings
) -> None:
    may_go_on = threading.Event()
    stuck = str(models.adapter("stuck"))

    def locate(written: str) -> Path:
        if written == stuck:
            may_go_on.wait(PATIENCE)
        return Path(written)

    slow = with_members(group, models, "stuck")
    try:
        async with running(slow, until="preparing", locate=locate) as gateway:
            await gateway.update(group)
            await gateway.until("ready")
            assert (await answer(gateway, "a"))[0] == 200
            assert await answer(gateway, "stuck") == (404, "model_not_found")
            assert await changes(gateway) == []
            may_go_on.set()
    finally:
        may_go_on.set()


async def test_a_group_whose_base_could_not_be_read_comes_up_when_it_can(
    group: GroupSettings, tmp_path: Path
) -> None:
    base = BaseSettings(path=str(tmp_path / "base"))
    group = group.model_copy(update={"base": base})
    async with running(group, until="failed") as gateway:
        (update,) = await gateway.update(group)
        assert (update.outcome, gateway.status().state) == ("not_live", "failed")
        write_base(tmp_path / "base")
        (update,) = await gateway.update(group)
        assert update.outcome == "updated"
        await gateway.until("ready")
        assert (await answer(gateway, "a"))[0] == 200


async def test_an_update_wakes_a_group_that_waits_to_be_started_again(models: Models) -> None:
    group = models.group(members=("a",), start="bad options")
    async with running(group, until="failed") as gateway:
        await gateway.update(with_members(group, models, "a b"))
        await gateway.until("starting")
        await gateway.until("failed")


async def test_the_last_of_two_updates_holds(models: Models, group: GroupSettings) -> None:
    async with running(group) as gateway:
        await asyncio.gather(
            gateway.update(with_members(group, models, "c d")),
            gateway.update(with_members(group, models, "a=a2 d")),
        )
        for key, status in {"a": 200, "b": 404, "c": 404, "d": 200}.items():
            assert (await answer(gateway, key))[0] == status


async def test_a_key_that_comes_back_while_its_stream_runs_is_never_forgotten(
    models: Models, group: GroupSettings
) -> None:
    async with running(group) as gateway:
        stream = await gateway.begun("hang")
        await gateway.update(with_members(group, models, "b"))
        assert await answer(gateway, "a") == (404, "model_not_found")
        await gateway.update(group)
        stream.close()
        await eventually(lambda: gateway.status().in_flight == 0)
        assert (await answer(gateway, "a", "late"))[0] == 200
        assert await changes(gateway) == []


async def test_readyz_and_metrics_tell_of_updates(models: Models) -> None:
    group = models.group(start={"puts": {"b": "wait"}})
    async with running(group) as gateway:
        updating = asyncio.create_task(gateway.update(with_members(group, models, "a b")))
        await wait_for_put(gateway, "b")
        _, ready = await gateway.json("/readyz")
        assert ready["status"] == "ready"
        assert ready["groups"][0]["update"] == "loading adapters, 0 of 1"
        assert await answer(gateway, "b") == (404, "model_not_found")
        await gateway.release_worker()
        await updating
        _, ready = await gateway.json("/readyz")
        assert ready["groups"][0]["update"] == "1 added; 3 served"
        counted = 'stackserve_group_updates_total{group="g",outcome="updated"} 1.0'
        assert counted in await gateway.text("/metrics")


async def test_a_wrong_file_changes_nothing(models: Models, group: GroupSettings) -> None:
    def load() -> Any:
        raise ConfigError("f.yaml:1: groups: is required")

    async with running(group) as gateway:
        before = gateway.status()
        with pytest.raises(ConfigError, match="is required"):
            await gateway.gateway.update(load)
        after = gateway.status()
        assert (after.version, after.state) == (before.version, "ready")
        assert str(after.update).startswith("not updated")
        counted = 'stackserve_group_updates_total{group="-",outcome="invalid_config"} 1.0'
        assert counted in await gateway.text("/metrics")


async def test_groups_that_need_a_restart_stay_and_the_others_change(
    models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    here = models.group("here", ("a",), key="base-a")
    there = models.group("there", ("b",), key="base-b")
    new = models.group("new", ("d",), key="base-d")
    async with running(here, there) as gateway:
        faster = there.engine.model_copy(update={"max_num_seqs": 64, "dtype": "float32"})
        changed = with_members(there, models, "b c").model_copy(update={"engine": faster})
        updates = await gateway.update(with_members(here, models, "a e"), changed, new)
        assert {each.group: each.outcome for each in updates} == {
            "here": "updated", "there": "not_live", "new": "not_live",
        }  # fmt: skip
        assert (await answer(gateway, "e"))[0] == 200
        assert await answer(gateway, "c") == (404, "model_not_found")
        assert (await answer(gateway, "b"))[0] == 200
        await gateway.update(here)
        assert (await answer(gateway, "b"))[0] == 200
    assert (
        "there: not updated: engine.dtype, engine.max_num_seqs changed, which a running engine cannot "
        "follow; restart the server" in caplog.text
    )
    assert "new: it is new; restart the server to serve it" in caplog.text
    assert "there: not updated: it is no longer in the file" in caplog.text


async def test_a_name_that_another_group_keeps_is_not_taken_from_it(models: Models) -> None:
    here = models.group("here", ("a",), key="base-a")
    there = models.group("there", ("b",), key="base-b")
    async with running(here, there) as gateway:
        engine = there.engine.model_copy(update={"seed": 1})
        without = with_members(there, models, "c").model_copy(update={"engine": engine})
        updates = await gateway.update(with_members(here, models, "a b"), without)
        assert [each.outcome for each in updates] == ["not_live", "not_live"]
        assert updates[0].sentence.startswith("not updated: b is still a name of group there")
        async with gateway.chat("hello", model="b") as response:
            assert response.headers["x-stackserve-group"] == "there"


async def test_a_group_without_a_member_at_its_start_takes_none(models: Models) -> None:
    group = models.group(members=())
    async with running(group) as gateway:
        (update,) = await gateway.update(with_members(group, models, "a"))
        assert update.outcome == "not_live"
        assert "started without any adapter" in update.sentence
        assert (await answer(gateway, "base"))[0] == 200


async def test_a_group_may_lose_all_members_and_get_new_ones_after_its_worker_died(
    models: Models,
) -> None:
    group = models.group(members=("a",))
    async with running(group) as gateway:
        await gateway.update(with_members(group, models, ""))
        first = gateway.status().worker_pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: gateway.status().worker_pid not in (None, first))
        await gateway.until("ready")
        await gateway.update(with_members(group, models, "b"))
        assert (await answer(gateway, "b"))[0] == 200


async def test_an_adapter_of_a_higher_rank_than_the_slots_is_refused(
    models: Models, group: GroupSettings, tmp_path: Path
) -> None:
    large = Adapters(tmp_path, defaults=default_tensors(rank=9)).make({"r": 9})
    members = (*group.members, MemberSettings(key="c", path=str(large)))
    async with running(group) as gateway:
        await gateway.update(group.model_copy(update={"members": members}))
        (refused,) = gateway.status().refused
        assert (refused.key, refused.code) == ("c", "rank_over_limit")
        assert refused.message == (
            "Its rank is 9, and the adapter slots of the running engine hold 8; set "
            "engine.max_rank to 16 and restart the server."
        )
        assert (await answer(gateway, "a"))[0] == 200


async def test_pins_are_held_against_the_slots_that_the_engine_was_started_with(
    models: Models,
) -> None:
    group = models.group(members=("a", "b"))
    pins = {"a": {"pinned": True}, "b": {"pinned": True}}
    async with running(group) as gateway:
        (update,) = await gateway.update(with_members(group, models, "a b c d", **pins))
        assert update.outcome == "not_live"
        assert "2 pinned would leave no slot for others" in update.sentence
        assert await answer(gateway, "c") == (404, "model_not_found")


async def test_a_server_that_drains_is_not_updated(models: Models, group: GroupSettings) -> None:
    async with running(group) as gateway:
        await gateway.gateway.drained(PATIENCE)
        assert await gateway.update(with_members(group, models, "c")) == []
        assert gateway.status().served == 3
