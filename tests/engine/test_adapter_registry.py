"""The worker's names and numbers of adapters: each number once, and nothing half known."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from stackserve.engine import compat
from stackserve.engine.adapter_registry import AdapterRegistry, AdapterUnusable, UnknownAdapter
from stackserve.engine.slot_policy import PolicySettings
from stackserve.protocol import AdapterSpec
from tests.engine.residency_world import World


class Engine:
    """Answers as `adapter_commands` does, from a residency in simulated time."""

    def __init__(self, slots: int = 2) -> None:
        self.world = World(slots, PolicySettings())
        self.weights: dict[str, float] = {}

    async def ask(self, operation: str, arguments: Mapping[str, Any]) -> Any:
        await asyncio.sleep(0)
        answer = getattr(self, operation)(**arguments)
        self.world.step()
        return answer

    def add(self, source: list[Any], weight: float, load: bool, displace: bool) -> bool:
        name, number, folder = source
        self.weights[name] = weight
        self.world.residency.register(
            number, name, folder, self.world.now, load=load, displace=displace
        )
        return True

    def remove(self, id: int) -> bool:
        self.world.residency.remove(id, self.world.now)
        return True

    def pin(self, id: int) -> str | None:
        try:
            self.world.residency.pin(id, self.world.now)
        except ValueError as error:
            return str(error)
        return None

    def unpin(self, id: int) -> None:
        self.world.residency.unpin(id)

    def look(self, ids: list[int]) -> dict[str, list[Any]]:
        residency = self.world.residency
        known = {each: residency.get(each) for each in ids}
        return {str(i): [residency.is_coming(i), each.error] for i, each in known.items() if each}

    def held(self) -> list[str]:
        """The names of all that take memory."""
        return sorted(each.name for each in self.world.residency if each.tier != "disk")


class App(SimpleNamespace):
    """What `compat` touches of vLLM's application."""

    def __init__(self) -> None:
        self.requestable: dict[str, Any] = {}
        models = SimpleNamespace(lora_requests=self.requestable)
        super().__init__(state=SimpleNamespace(openai_serving_models=models))


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> App:
    app = App()

    def register(app: Any, name: str, number: int, folder: str) -> None:
        app.state.openai_serving_models.lora_requests[name] = (number, folder)

    monkeypatch.setattr(compat, "register_adapter", register)  # vLLM's own needs vLLM
    return app


@pytest.fixture
def registry(app: App, engine: Engine) -> AdapterRegistry:
    return AdapterRegistry(app, engine.ask)


def spec(key: str, version: int = 1, **more: Any) -> AdapterSpec:
    return AdapterSpec(key, f"{key}@{version}", f"/store/{key}{version}", **more)


async def test_an_adapter_is_requestable_when_it_is_loaded(
    registry: AdapterRegistry, app: App, engine: Engine
) -> None:
    engine.world.host.held.add(1)
    adding = asyncio.create_task(registry.add(spec("a")))
    await asyncio.sleep(0.1)
    assert not app.requestable
    engine.world.host.held.clear()
    await adding
    assert app.requestable == {"a@1": (1, "/store/a1")}
    assert engine.held() == ["a@1"]


async def test_a_new_version_gets_a_new_number_and_the_old_one_goes(
    registry: AdapterRegistry, app: App, engine: Engine
) -> None:
    await registry.add(spec("a", 1))
    await registry.add(spec("a", 2))
    await registry.remove("a@1")
    assert app.requestable == {"a@2": (2, "/store/a2")}
    assert engine.held() == ["a@2"]
    await registry.add(spec("a", 1))
    assert app.requestable["a@1"] == (3, "/store/a1"), "no number comes twice"


async def test_what_cannot_be_loaded_leaves_nothing(
    registry: AdapterRegistry, app: App, engine: Engine
) -> None:
    engine.world.host.fail[1] = "it is broken"
    with pytest.raises(AdapterUnusable, match="it is broken"):
        await registry.add(spec("a"))
    assert not app.requestable
    await registry.add(spec("a"))
    assert list(app.requestable) == ["a@1"]


async def test_a_pin_that_is_refused_leaves_nothing(
    registry: AdapterRegistry, app: App, engine: Engine
) -> None:
    await registry.add(spec("a", pinned=True))
    with pytest.raises(AdapterUnusable, match="one must be left for the others"):
        await registry.add(spec("b", pinned=True))
    assert list(app.requestable) == ["a@1"]
    with pytest.raises(UnknownAdapter):
        await registry.remove("b@1")


async def test_share_and_pin_of_one_that_is_there_are_changed(
    registry: AdapterRegistry, engine: Engine
) -> None:
    await registry.add(spec("a"))
    await registry.add(spec("a", weight=3.0, pinned=True))
    assert engine.weights == {"a@1": 3.0}
    assert [each.pinned for each in engine.world.residency] == [True]
    await registry.add(spec("a", pinned=False))
    assert [each.pinned for each in engine.world.residency] == [False]


async def test_changes_of_one_name_come_one_after_the_other(
    registry: AdapterRegistry, app: App, engine: Engine
) -> None:
    engine.world.host.held.add(1)
    first = asyncio.create_task(registry.add(spec("a")))
    await asyncio.sleep(0.05)
    second = asyncio.create_task(registry.add(spec("a")))
    removal = asyncio.create_task(registry.remove("a@1"))
    await asyncio.sleep(0.05)
    assert not second.done(), "the second waits for the load as well"
    engine.world.host.held.clear()
    await asyncio.gather(first, second, removal)
    assert not app.requestable
    assert engine.held() == []


async def test_what_is_unknown_cannot_be_removed(registry: AdapterRegistry) -> None:
    with pytest.raises(UnknownAdapter, match="no adapter is called a@1 here"):
        await registry.remove("a@1")


async def test_at_the_start_all_are_requestable_and_the_bad_ones_are_told(
    registry: AdapterRegistry, app: App, engine: Engine
) -> None:
    engine.world.host.fail[2] = "no weights"
    steps: list[int] = []
    specs = [spec(key) for key in "abcd"]
    failures = await registry.open(specs, 3, steps.append)
    assert [(each.key, reason) for each, reason in failures] == [("b", "no weights")]
    assert list(app.requestable) == ["a@1", "c@1", "d@1"]
    assert engine.held() == ["a@1", "c@1"], "the fourth is read at its first request"
    assert steps[-1] == 3


async def test_too_many_pins_at_the_start_are_told_and_the_others_served(
    registry: AdapterRegistry, app: App
) -> None:
    specs = [spec("a", pinned=True), spec("b", pinned=True), spec("c")]
    failures = await registry.open(specs, 3, lambda done: None)
    assert [each.key for each, _ in failures] == ["b"]
    assert list(app.requestable) == ["a@1", "c@1"]
