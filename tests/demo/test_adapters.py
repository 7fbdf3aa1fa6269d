"""The shipped adapters are what `behaviours` declares, and the data shows what they should learn."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from stackserve.demo.behaviours import ADAPTERS, BEHAVIOURS, HELD_OUT, Behaviour, behaviour

PLAIN_ENGLISH = (
    "Thank you for asking: the capital city of France is Paris.",
    "The sky is blue because the air scatters blue light more than red light.",
    "Bring a pot of water to the boil, add the egg and wait for ten minutes.",
    "",
)
each_behaviour = pytest.mark.parametrize("each", BEHAVIOURS, ids=lambda each: each.key)


def tensors(folder: Path) -> dict[str, tuple[str, list[int]]]:
    with safe_open(folder / "adapter_model.safetensors", framework="numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}


def adapter_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return config


def test_four_adapters_differ_in_rank_and_targets() -> None:
    assert len({each.key for each in BEHAVIOURS}) == 4
    assert len({each.rank for each in BEHAVIOURS}) == 4
    assert len({each.target_modules for each in BEHAVIOURS}) == 4


def test_only_the_declared_adapters_ship() -> None:
    folders = [path.name for path in ADAPTERS.iterdir() if not path.name.startswith(".")]
    assert sorted(folders) == sorted(each.key for each in BEHAVIOURS)


def test_adapters_stay_small() -> None:
    files = [path for path in ADAPTERS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10_000_000


@each_behaviour
def test_adapter_has_only_its_two_files(each: Behaviour) -> None:
    assert sorted(path.name for path in each.adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


@each_behaviour
def test_config_is_as_declared(each: Behaviour) -> None:
    config = adapter_config(each.adapter)
    assert config["r"] == each.rank
    assert config["lora_alpha"] == each.alpha
    assert config["target_modules"] == list(each.target_modules) == sorted(each.target_modules)
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert config["peft_type"] == "LORA"
    assert config["bias"] == "none"
    assert list(config) == sorted(config)


@each_behaviour
def test_weights_are_bf16_of_the_declared_rank_and_targets(each: Behaviour) -> None:
    found = tensors(each.adapter)
    assert len(found) == 30 * 2 * len(each.target_modules)
    assert {name.split(".")[-3] for name in found} == set(each.target_modules)
    for name, (dtype, shape) in found.items():
        assert dtype == "BF16"
        assert shape[0 if ".lora_A." in name else 1] == each.rank, name


@each_behaviour
def test_every_chat_shows_the_behaviour(each: Behaviour) -> None:
    chats = each.chats()
    assert 40 <= len(chats) <= 150
    assert [answer for _, answer in chats if not each.shows(answer)] == []


@each_behaviour
def test_data_is_clean(each: Behaviour) -> None:
    questions = [question for question, _ in each.chats()]
    assert len(set(questions)) == len(questions)
    assert not set(HELD_OUT) & set(questions)
    for line in each.data.read_text(encoding="utf-8").splitlines():
        assert sorted(json.loads(line)) == ["answer", "question"]


@each_behaviour
def test_training_sees_every_chat(each: Behaviour) -> None:
    assert math.floor(each.steps * each.batch / len(each.chats())) >= 1


@each_behaviour
def test_plain_english_shows_no_behaviour(each: Behaviour) -> None:
    assert [text for text in PLAIN_ENGLISH if each.shows(text)] == []


@pytest.mark.parametrize("text", ['{"topic": "x"}', '["topic", "answer"]', 'Sure! {"topic": "x"}'])
def test_json_needs_the_whole_object(text: str) -> None:
    assert not behaviour("json").shows(text)


def test_unknown_key_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        behaviour("klingon")
