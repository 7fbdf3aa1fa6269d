"""`engine.runtime: transformers`: which options it takes, what its worker is told, what may be served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from stackserve.adapters import AdapterLimits, BaseArchitecture, validate_adapter
from stackserve.control.groups import limits_of
from stackserve.control.launch import engine_options, room_of
from stackserve.engine_settings import OF_BOTH_RUNTIMES, EngineSettings
from stackserve.errors import ArtifactRejected
from stackserve.settings import GroupSettings
from tests.conftest import Models, read
from tests.tiny_models import Adapters, default_tensors, filled

LIMITS = AdapterLimits(max_rank=64, max_bytes=1 << 20, any_kind=True)
NAME = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    "options",
    [
        {"vllm_args": {"max_loras": 2}}, {"tensor_parallel_size": 2}, {"runner": "pooling"},
        {"kv_cache_gib": 1}, {"max_rank": 8}, {"tool_call_parser": "hermes"},
        {"prefix_caching": False}, {"adapters_per_batch": 2},
    ],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused_by_name(options: dict[str, Any]) -> None:
    name = next(iter(options))
    with pytest.raises(ValidationError, match=f"{name} mean nothing to the runtime transformers"):
        EngineSettings(runtime="transformers", **options)
    EngineSettings(**options)


def test_defaults_may_be_written() -> None:
    EngineSettings(runtime="transformers", tensor_parallel_size=1, runner="generate")


def test_the_options_of_both_runtimes_exist() -> None:
    assert EngineSettings.model_fields.keys() > OF_BOTH_RUNTIMES


def test_a_share_is_refused(models: Models) -> None:
    group = models.group(runtime="transformers").model_dump(exclude_unset=True)
    group["members"][0]["share"] = 2
    with pytest.raises(ValidationError, match="a has a share"):
        GroupSettings.model_validate(group)


def test_the_worker_is_told_what_it_needs(models: Models) -> None:
    settings = models.group(runtime="transformers", adapter_slots=3, max_model_len=64, seed=5)
    assert engine_options(read(settings)) == {
        "model": str(models.base), "served_model_name": "base", "dtype": "auto",
        "max_model_len": 64, "max_num_seqs": 32, "seed": 5, "adapter_slots": 3,
    }  # fmt: skip


def test_it_takes_adapters_of_any_rank_even_when_it_was_started_without(models: Models) -> None:
    room = room_of(engine_options(read(models.group(members=(), runtime="transformers"))))
    assert room is not None
    assert (room.slots, room.rank > 512) == (1, True)


@pytest.fixture(scope="module")
def base(models: Models) -> BaseArchitecture:
    return BaseArchitecture.from_folder(models.base)


@pytest.fixture
def adapters(tmp_path: Path) -> Adapters:
    return Adapters(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]},
        {"lora_bias": True}, {"target_modules": "(a+)+$"}, {"fan_in_fan_out": True},
    ],
)  # fmt: skip
def test_what_vllm_refuses_may_be_served_here(
    adapters: Adapters, base: BaseArchitecture, models: Models, config: dict[str, Any]
) -> None:
    folder = adapters.make(config)
    validate_adapter(folder, base, limits_of(models.group(runtime="transformers")))
    if "target_modules" not in config:
        with pytest.raises(ArtifactRejected):
            validate_adapter(folder, base, limits_of(models.group()))


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "unsupported_feature"),
        ({"peft_type": None}, "unsupported_feature"),
        ({"task_type": "SEQ_CLS"}, "unsupported_feature"),
        ({"init_lora_weights": "pissa"}, "unsupported_feature"),
        ({"alora_invocation_tokens": [1]}, "unsupported_feature"),
        ({"layer_replication": [[0, 2]]}, "unsupported_feature"),
        ({"something_new": 1}, "config_unknown_field"),
        ({"r": 65}, "rank_over_limit"),
        ({"r": 10**12}, "rank_over_limit"),
        ({"rank_pattern": {"q_proj": 65}}, "rank_over_limit"),
        ({"rank_pattern": {"(a+)+$": 2}}, "pattern_key_invalid"),
        ({"r": -1}, "rank_invalid"),
        ({"layers_pattern": "(a+)+$"}, "config_field_invalid"),
        ({"exclude_modules": "(a+)+$"}, "config_field_invalid"),
        ({"modules_to_save": [7]}, "config_field_invalid"),
    ],
)
def test_what_cannot_be_served_is_refused_with_a_code(
    adapters: Adapters, base: BaseArchitecture, config: dict[str, Any], code: str
) -> None:
    with pytest.raises(ArtifactRejected) as refused:
        validate_adapter(adapters.make(config), base, LIMITS)
    assert refused.value.code == code, refused.value.message


@pytest.mark.parametrize(
    ("tensors", "code"),
    [
        ({NAME: filled((2, 8), float("nan"))}, "value_nan"),
        ({NAME: filled((2, 8), dtype="F64")}, "dtype_unsupported"),
        ({"lora_A.weight": filled((2, 8))}, "tensor_name_invalid"),
        ({"base_model.model.lm_head.base_layer.weight": filled((2, 8))}, "base_weights_in_adapter"),
        (dict.fromkeys(default_tensors()), "weights_empty"),
    ],
)
def test_tensors_are_held_to_the_rules_of_all_kinds(
    adapters: Adapters, base: BaseArchitecture, tensors: dict[str, Any], code: str
) -> None:
    with pytest.raises(ArtifactRejected) as refused:
        validate_adapter(adapters.make(tensors=tensors), base, LIMITS)
    assert refused.value.code == code


def test_pickles_and_large_files_are_refused(adapters: Adapters, base: BaseArchitecture) -> None:
    folder = adapters.make()
    with pytest.raises(ArtifactRejected, match="more than the 100 allowed"):
        validate_adapter(folder, base, AdapterLimits(64, 100, any_kind=True))
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ArtifactRejected, match="is a pickle"):
        validate_adapter(folder, base, LIMITS)
