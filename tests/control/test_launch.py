"""What an engine worker is told, from what is configured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stackserve.control.groups import StackedGroup
from stackserve.control.launch import engine_options, targets_of, worker_spec
from stackserve.engine_settings import EngineSettings
from stackserve.protocol import SCHEDULER, WorkerSpec
from stackserve.settings import MemberSettings
from tests.conftest import Models, read

LORA = {"enable_lora", "max_loras", "max_cpu_loras", "max_lora_rank"}


@pytest.fixture
def one(models: Models) -> StackedGroup:
    return read(models.group(members=("a",)))


def many(group: StackedGroup, count: int, rank: int = 2, **engine: Any) -> StackedGroup:
    """The group with `count` members of a rank."""
    (member,) = group.members
    adapter = replace(member.adapter, rank=rank)
    members = tuple(replace(member, key=f"k{n}", adapter=adapter) for n in range(count))
    named = tuple(MemberSettings(key=each.key, path="a") for each in members)
    changes = {"engine": EngineSettings(**engine), "members": named}
    settings = group.settings.model_copy(update=changes)
    return replace(group, members=members, settings=settings)


def test_the_base_is_the_first_target_and_has_no_adapter(models: Models) -> None:
    base, *adapters = targets_of(read(models.group(members=("b", "a"))))
    assert (base.key, base.model_id, base.worker_model) == ("base", "g/base", "base")
    assert (base.adapter_sha256, base.parent) == (None, None)
    assert [(each.key, each.model_id, each.parent) for each in adapters] == [
        ("b", "g/b", "base"),
        ("a", "g/a", "base"),
    ]


def test_an_adapters_name_in_the_worker_carries_its_digest(one: StackedGroup) -> None:
    _, adapter = targets_of(one)
    assert adapter.worker_model == f"a@{one.members[0].adapter.digest}"
    (spec,) = worker_spec(one, engine_options(one), Path("/s"), 3).adapters
    assert spec.worker_model == adapter.worker_model
    assert spec.folder == str(one.members[0].adapter.folder)


@pytest.mark.parametrize(
    ("rank", "slot"), [(1, 1), (2, 8), (8, 8), (9, 16), (64, 64), (257, 320), (512, 512)]
)
def test_slots_have_the_smallest_rank_that_fits_all(
    one: StackedGroup, rank: int, slot: int
) -> None:
    assert engine_options(many(one, 2, rank))["max_lora_rank"] == slot


def test_a_configured_rank_is_taken(one: StackedGroup) -> None:
    assert engine_options(many(one, 1, 2, max_rank=64))["max_lora_rank"] == 64


@pytest.mark.parametrize(
    ("count", "engine", "slots", "preload"),
    [
        (1, {}, 1, 1),
        (4, {}, 4, 4),
        (20, {}, 8, 20),
        (100, {}, 8, 64),
        (100, {"adapter_slots": 2}, 2, 64),
        (100, {"adapters_per_batch": 2}, 8, 64),
        (100, {"adapter_slots": 4, "adapters_per_batch": 2}, 4, 64),
        (2, {"adapter_slots": 16}, 16, 2),
        (2, {"adapters_per_batch": 16}, 16, 2),
    ],
)
def test_slots_and_preloads_are_bounded(
    one: StackedGroup, count: int, engine: dict[str, int], slots: int, preload: int
) -> None:
    group = many(one, count, **engine)
    assert engine_options(group)["max_loras"] == slots
    assert worker_spec(group, engine_options(group), Path("/s"), 3).preload == preload


def test_the_scheduler_is_told_what_is_configured(one: StackedGroup) -> None:
    group = many(one, 3, adapters_per_batch=2, adapter_memory_gib=0.5, starvation_seconds=1)
    assert engine_options(group)["additional_config"] == {
        "stackserve": {
            "adapters_per_batch": 2,
            "starvation_seconds": 1,
            "min_residency_seconds": 0.5,
            "host_bytes": 2**29,
            "stagers": 2,
        }
    }
    assert engine_options(group)["scheduler_cls"] == SCHEDULER


def test_a_members_share_and_pin_reach_the_worker(one: StackedGroup) -> None:
    (member,) = one.members
    group = replace(one, members=(replace(member, share=3.0, pinned=True),))
    (spec,) = worker_spec(group, engine_options(group), Path("/s"), 3).adapters
    assert (spec.weight, spec.pinned) == (3.0, True)


def test_a_base_alone_gets_no_lora_options(models: Models) -> None:
    group = read(models.group(members=()))
    assert not LORA & set(engine_options(group))
    assert worker_spec(group, engine_options(group), Path("/s"), 3).preload == 0


def test_vllm_args_win(one: StackedGroup) -> None:
    options = engine_options(many(one, 1, seed=1, vllm_args={"seed": 2, "max_loras": 3, "x": [1]}))
    assert (options["seed"], options["max_loras"], options["x"]) == (2, 3, [1])


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ({}, {"kv_cache_memory_bytes": None, "enforce_eager": None, "runner": "generate"}),
        ({"kv_cache_gib": 0.5}, {"kv_cache_memory_bytes": 2**29}),
        ({"enforce_eager": True}, {"enforce_eager": True}),
        ({"prefix_caching": False}, {"enable_prefix_caching": False}),
        (
            {"tool_call_parser": "hermes"},
            {"tool_call_parser": "hermes", "enable_auto_tool_choice": True},
        ),
    ],
)
def test_options_have_vllms_names_and_units(
    one: StackedGroup, engine: dict[str, Any], expected: dict[str, Any]
) -> None:
    options = engine_options(many(one, 1, **engine))
    assert {name: options[name] for name in expected} == expected


def test_a_spec_survives_the_pipe(one: StackedGroup) -> None:
    spec = worker_spec(one, engine_options(one), Path("/s"), 3)
    assert msgspec.json.decode(msgspec.json.encode(spec), type=WorkerSpec) == spec
