"""adapter_config.json: what is served, and what is refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from stackserve.adapters import AdapterLimits, BaseArchitecture, validate_adapter
from stackserve.adapters.peft_config import PeftConfig, parse_config

MINIMAL = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}


def parse(**fields: Any) -> PeftConfig:
    return parse_config(json.dumps({**MINIMAL, **fields}).encode())


def test_reads_the_fields_that_decide_the_answer() -> None:
    config = parse(base_model_name_or_path="org/name", target_modules=["v", "q", "q"])
    assert (config.rank, config.alpha, config.use_rslora) == (8, 16.0, False)
    assert config.target_modules == ("q", "v")
    assert config.base_model_name == "org/name"
    assert config.scale_of("anything") == 2.0


def test_rslora_divides_by_the_root_of_the_rank() -> None:
    assert parse(use_rslora=True).scale_of("m") == 16 / math.sqrt(8)


def test_patterns_match_the_last_parts_of_a_name_and_the_first_wins() -> None:
    config = parse(
        rank_pattern={"layers.0.q_proj": 2, "q_proj": 4, "k_proj": 32}, alpha_pattern={"q.proj": 1}
    )
    assert config.rank_of("model.layers.0.q_proj") == 2
    assert config.rank_of("model.layers.1.q_proj") == 4
    assert config.rank_of("model.layers.1.xq_proj") == 8
    assert config.scale_of("model.layers.1.q_proj") == 0.25
    assert config.largest_rank == 32


def test_null_patterns_and_flags_mean_the_default() -> None:
    config = parse(rank_pattern=None, alpha_pattern=None, use_rslora=None, task_type=None)
    assert config.rank_of("m") == 8


@pytest.mark.parametrize("targets", ["all-linear", "(a+)+$", ".*"])
def test_a_target_expression_is_kept_unevaluated(targets: str) -> None:
    config = parse(target_modules=targets)
    assert config.target_modules is None
    assert config.targets("a" * 100 + "!")


@pytest.mark.parametrize("init", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_serves_initialisations_that_leave_the_base_alone(init: Any) -> None:
    assert parse(init_lora_weights=init).rank == 8


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_dora", True), ("use_dora", "false"), ("lora_bias", True), ("use_qalora", True),
        ("bias", "all"), ("bias", "lora_only"), ("bias", None),
        ("fan_in_fan_out", True), ("modules_to_save", ["lm_head"]),
        ("modules_to_save", ["classifier", "score"]),
        ("trainable_token_indices", [1]), ("trainable_token_indices", {"embed_tokens": [1]}),
        ("target_parameters", ["experts.down_proj"]), ("layer_replication", [[0, 2]]),
        ("alora_invocation_tokens", [1]), ("alora_invocation_tokens", []),
        ("megatron_config", {"a": 1}), ("use_bdlora", {"nblocks": 2}), ("velora_config", {}),
        ("kasa_config", {}), ("monteclora_config", {}), ("arrow_config", {"top_k": 1}),
        ("init_lora_weights", "pissa"), ("init_lora_weights", "pissa_niter_16"),
        ("init_lora_weights", "olora"), ("init_lora_weights", "corda"),
        ("init_lora_weights", "loftq"), ("init_lora_weights", "lora_ga"),
        ("init_lora_weights", "new"), ("init_lora_weights", 7),
        ("peft_type", "IA3"), ("peft_type", None), ("peft_type", ["LORA"]),
        ("task_type", "SEQ_CLS"), ("task_type", "TOKEN_CLS"), ("task_type", {}),
    ],
)  # fmt: skip
def test_refuses_a_feature_that_is_not_served(refused: Any, field: str, value: Any) -> None:
    with refused("unsupported_feature", field, ascii(value), "; "):
        parse(**{field: value})


@pytest.mark.parametrize("field", ["modules_to_save", "layer_replication", "target_parameters"])
def test_an_empty_list_means_that_the_feature_is_off(field: str) -> None:
    assert parse(**{field: []}).rank == 8


def test_refuses_a_field_it_does_not_know_unless_it_is_off(refused: Any) -> None:
    assert parse(use_new_thing=False, new_config=None).rank == 8
    with refused("config_unknown_field", "use_new_thing", "True"):
        parse(use_new_thing=True)


@pytest.mark.parametrize("value", [0, -1, True, "8", 8.0, None, [8]])
def test_a_rank_is_an_integer_of_at_least_one(refused: Any, value: Any) -> None:
    with refused("rank_invalid", "r in", ascii(value)):
        parse(r=value)
    with refused("rank_invalid", "rank_pattern[q_proj]", ascii(value)):
        parse(rank_pattern={"q_proj": value})


@pytest.mark.parametrize("value", [0, -1, True, "16", None, [16], 10**400])
def test_an_alpha_is_a_number_above_zero(refused: Any, value: Any) -> None:
    with refused("alpha_invalid", "lora_alpha", ascii(value)[:40]):
        parse(lora_alpha=value)
    with refused("alpha_invalid", "alpha_pattern[q_proj]"):
        parse(alpha_pattern={"q_proj": value})


@pytest.mark.parametrize("name", ["(a+)+", "q|v", "^q_proj", "q proj", "", "q\n", "q" * 257, "é"])
def test_a_pattern_key_is_a_plain_module_name(refused: Any, name: str) -> None:
    for field, value in (("rank_pattern", 2), ("alpha_pattern", 2)):
        with refused("pattern_key_invalid", field, ascii(name)[:40]):
            parse(**{field: {name: value}})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_rslora", "false"), ("use_rslora", 1), ("ensure_weight_tying", "no"),
        ("rank_pattern", [1]), ("alpha_pattern", "q"), ("target_modules", None),
        ("target_modules", []), ("target_modules", ""), ("target_modules", [1]),
        ("target_modules", ["../../x"]), ("target_modules", ["q\0"]), ("target_modules", {}),
        ("base_model_name_or_path", 7), ("base_model_name_or_path", "a\nb"),
        ("base_model_name_or_path", "\ud800"),
    ],
)  # fmt: skip
def test_refuses_a_field_of_the_wrong_kind(refused: Any, field: str, value: Any) -> None:
    with refused("config_field_invalid", field):
        parse(**{field: value})


def test_refuses_too_many_patterns(refused: Any) -> None:
    with refused("config_field_invalid", "rank_pattern"):
        parse(rank_pattern={f"m{n}": 1 for n in range(1025)})


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "JSON"), (b"[]", "[]"), (b"null", "None"), (b'{"r": 8', "JSON"),
        (b'{"r": 8, "r": 16}', "'r' appears twice"), (b'{"lora_alpha": NaN}', "NaN"),
        (b'{"lora_alpha": -Infinity}', "-Infinity"), (b'{"lora_alpha": 1e999}', "1e999"),
        (b'{"a": "\xff"}', "UTF-8"), (b"\xef\xbb\xbf{}", "BOM"), (b"[" * 100_000, "too deep"),
        (b'{"r": ' + b"9" * 5000 + b"}", "digits"),
    ],
)  # fmt: skip
def test_refuses_what_is_not_strict_json(refused: Any, content: bytes, named: str) -> None:
    with refused("config_invalid", "adapter_config.json", named):
        parse_config(content)


@pytest.mark.parametrize("rank", [17, 10**9])
def test_refuses_a_rank_over_the_limit_even_in_a_pattern_without_a_module(
    adapters: Any, base: BaseArchitecture, limits: AdapterLimits, refused: Any, rank: int
) -> None:
    for config in ({"r": rank}, {"rank_pattern": {"no_such_module": rank}}):
        folder: Path = adapters.make(config)
        with refused("rank_over_limit", str(rank), "16"):
            validate_adapter(folder, base, limits)


@pytest.mark.parametrize("alpha", [1e308, 1e-308, 1e5, 1e-6])
def test_refuses_an_alpha_whose_scale_erases_or_overflows(
    adapters: Any, base: BaseArchitecture, limits: AdapterLimits, refused: Any, alpha: float
) -> None:
    with refused("scale_out_of_range", "lora_alpha", f"{alpha / 2:.3g}"):
        validate_adapter(adapters.make({"lora_alpha": alpha}), base, limits)
