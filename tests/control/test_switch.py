"""A deployment is switched to other adapters: all of them or none, and nobody who asks notices."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import Any

import pytest

from stackserve.control import deployment as deployment_module
from stackserve.control.deployment import Deployment
from stackserve.control.roster import Roster
from stackserve.control.update import NotLive
from stackserve.errors import RolloutFailed
from stackserve.settings import GroupSettings, MemberSettings
from tests.conftest import Models
from tests.running import PATIENCE, Running, eventually, running

SWITCHES = 200
CLIENTS = 6


def weights(models: Models, names: str, **engine: Any) -> GroupSettings:
    """A group of three slots: `"a=a2 b"` is the key a with the weights a2, and b."""
    members = []
    for name in names.split():
        key, _, adapter = name.partition("=")
        members.append(MemberSettings(key=key, path=str(models.adapter(adapter or key))))
    group = models.group(members=(), adapter_slots=3, **engine)
    return group.model_copy(update={"members": tuple(members)})


async def switch(gateway: Running, group: GroupSettings) -> None:
    deployment = only(gateway)
    await deployment.switch(await deployment.read(group))


def only(gateway: Running) -> Deployment:
    (deployment,) = gateway.gateway.deployments()
    return deployment


async def known(gateway: Running) -> Counter[str]:
    """How many adapters the worker knows of each key."""
    return Counter(spec["key"] for spec in (await gateway.ask_worker("/known"))["known"])


async def knows_only(gateway: Running, *keys: str) -> None:
    async def so() -> bool:
        return await known(gateway) == Counter(keys)

    await eventually(so)


async def changes(gateway: Running) -> list[str]:
    asked: list[str] = (await gateway.ask_worker("/known"))["changes"]
    return asked


async def who(gateway: Running, key: str = "a", *, stream: bool = False) -> str:
    """The digest of the weights that answered, by the header and by the worker's own name of them."""
    async with gateway.chat("whoami", model=key, stream=stream) as answer:
        text = await answer.text()
        assert answer.status == 200, text
        digest = str(answer.headers["x-stackserve-adapter-sha256"])
    assert f"{key}@{digest}" in text, "the header names the weights that answered"
    assert "error" not in text
    return digest


class Load:
    """Clients that ask `a` who it is without a pause, in streams and whole; they stop with the block."""

    def __init__(self, gateway: Running) -> None:
        self.heard: Counter[str] = Counter()
        self._gateway = gateway
        self._enough = False

    async def __aenter__(self) -> Load:
        self._clients = [asyncio.create_task(self._ask(stream=n % 3 > 0)) for n in range(CLIENTS)]
        await eventually(lambda: bool(self.heard))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._enough = True
        await asyncio.gather(*self._clients)

    async def _ask(self, *, stream: bool) -> None:
        while not self._enough:
            self.heard[await who(self._gateway, stream=stream)] += 1


async def test_a_switch_serves_the_new_and_has_the_worker_forget_the_old(models: Models) -> None:
    async with running(weights(models, "a b")) as gateway:
        old, before = await who(gateway), gateway.status()
        await switch(gateway, weights(models, "a=a2 c"))
        assert await who(gateway) != old
        assert await who(gateway, "c")
        async with gateway.chat("hello", model="b") as answer:
            assert answer.status == 404
        await knows_only(gateway, "a", "c")
        after = gateway.status()
    assert (after.worker_pid, after.served) == (before.worker_pid, 3)
    assert after.version != before.version


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ({"puts": {"c": "refuse"}}, "RuntimeError: no"),
        ({"probe": "c"}, "it answers NaN"),
    ],
    ids=["not taken", "probe fails"],
)
async def test_one_bad_adapter_fails_the_whole_switch_and_nobody_notices(
    models: Models, order: dict[str, Any], reason: str
) -> None:
    async with running(weights(models, "a b", start=order)) as gateway:
        old, before = await who(gateway), gateway.status()
        async with Load(gateway) as load:
            with pytest.raises(RolloutFailed) as failed:
                await switch(gateway, weights(models, "a=a2 c d", start=order))
            await knows_only(gateway, "a", "b")
        assert failed.value.failures == {"c": reason}
        assert set(load.heard) == {old}
        assert await who(gateway, "b")
        after = gateway.status()
        assert (after.version, after.served, after.refused) == (before.version, 3, ())
        await switch(gateway, weights(models, "a=a2 d", start=order))
        assert await who(gateway, "d"), "a failed switch is in nobody's way"


async def test_a_worker_that_dies_meanwhile_fails_the_switch_and_the_old_comes_back(
    models: Models,
) -> None:
    order = {"puts": {"c": "die"}}
    async with running(weights(models, "a", start=order)) as gateway:
        old, before = await who(gateway), gateway.status()
        with pytest.raises(RolloutFailed, match="its worker ended: exit code 1"):
            await switch(gateway, weights(models, "a=a2 c", start=order))
        with pytest.raises(RolloutFailed, match="its engine does not answer"):
            await switch(gateway, weights(models, "a=a2", start=order))
        await gateway.until("ready")
        assert await who(gateway) == old
        assert gateway.status().version == before.version
        assert await known(gateway) == {"a": 1}


async def test_what_was_loaded_before_the_worker_broke_off_is_still_to_be_proved(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment_module, "RETRY_SECONDS", 0.0)
    order = {"torn_probe": "c"}
    async with running(weights(models, "a", start=order)) as gateway:
        with pytest.raises(RolloutFailed, match="c: it answers NaN"):
            await switch(gateway, weights(models, "a c", start=order))
        await knows_only(gateway, "a")


async def test_a_second_switch_waits_for_the_first(models: Models) -> None:
    order = {"puts": {"b": "wait"}}
    async with running(weights(models, "a", start=order)) as gateway:
        first = asyncio.create_task(switch(gateway, weights(models, "a b", start=order)))

        async def first_is_under_way() -> bool:
            return await changes(gateway) == ["PUT b"]

        await eventually(first_is_under_way)
        second = asyncio.create_task(switch(gateway, weights(models, "a c", start=order)))
        await who(gateway)
        assert await changes(gateway) == ["PUT b"]
        await gateway.release_worker()
        await asyncio.gather(first, second)
        assert await who(gateway, "c")
        await knows_only(gateway, "a", "c")
        assert await changes(gateway) == ["PUT b", "PUT c", "DELETE b"]


async def test_an_error_in_the_supervision_fails_the_switch_that_waits(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> dict[str, str]:
        raise ValueError("a bug")

    async with running(weights(models, "a")) as gateway:
        monkeypatch.setattr(Roster, "probe", broken)
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(RolloutFailed, match="an internal error"):
                await switch(gateway, weights(models, "a b"))
        assert gateway.status().state == "failed"


async def test_a_stop_fails_the_switch_that_waits(models: Models) -> None:
    order = {"puts": {"b": "wait"}}
    async with running(weights(models, "a", start=order)) as gateway:
        waiting = asyncio.create_task(switch(gateway, weights(models, "a b", start=order)))

        async def under_way() -> bool:
            return await changes(gateway) == ["PUT b"]

        await eventually(under_way)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(RolloutFailed, match="the server shuts down"):
            await waiting


async def test_an_adapter_that_cannot_be_read_fails_the_switch(
    models: Models, tmp_path: Any
) -> None:
    async with running(weights(models, "a")) as gateway:
        old = await who(gateway)
        bad = MemberSettings(key="a", path=str(tmp_path / "nowhere"))
        good = MemberSettings(key="b", path=str(models.adapter("b")))
        group = weights(models, "a").model_copy(update={"members": (bad, good)})
        with pytest.raises(RolloutFailed, match="a: The adapter folder does not exist"):
            await switch(gateway, group)
        assert await who(gateway) == old
        assert await changes(gateway) == []


async def test_what_a_running_engine_cannot_become_changes_nothing(models: Models) -> None:
    async with running(weights(models, "")) as gateway:
        before = gateway.status()
        with pytest.raises(NotLive, match="started without any adapter"):
            await switch(gateway, weights(models, "a"))
        with pytest.raises(NotLive, match=r"engine\.seed changed"):
            await switch(gateway, weights(models, "", seed=7))
        assert gateway.status().version == before.version


async def test_many_switches_under_load_lose_nothing_and_mix_nothing(models: Models) -> None:
    versions = [weights(models, "a"), weights(models, "a=a2")]
    async with running(versions[0]) as gateway:
        pid = gateway.status().worker_pid
        async with Load(gateway) as load:
            for group in itertools.islice(itertools.cycle(reversed(versions)), SWITCHES):
                await switch(gateway, group)
        await knows_only(gateway, "a")
        assert gateway.status().worker_pid == pid
    assert len(load.heard) == 2, "both versions have answered"
    assert load.heard.total() > SWITCHES
