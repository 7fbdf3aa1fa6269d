"""Composite adapters: exact against PEFT, the same bytes each time, refused by name."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from stackserve.adapters import (
    AdapterLimits,
    AdapterStore,
    BaseArchitecture,
    Composite,
    Part,
    ValidatedAdapter,
    validate_adapter,
    validate_source,
)
from tests.adapters.composite_parts import CONFIG, LIMITS, MODULES, WEIGHTS, ending, stored
from tests.tiny_models import HIDDEN, VOCABULARY, key, raw

# Exactness

MIXES = [
    pytest.param({"bf16": 0.7, "patterns": 1.0}, id="two"),
    pytest.param({"bf16": 0.7, "patterns": -1.3}, id="a negative weight"),
    pytest.param({"bf16": 1, "one_layer": 2}, id="no module in common"),
    pytest.param({"bf16": 0.3, "patterns": 0.1, "rslora": -0.2, "one_layer": 5}, id="four"),
    pytest.param({"patterns": 0.7, "rslora": 2}, id="rslora"),
    pytest.param({"patterns": 0.5}, id="one part"),
]


@pytest.fixture(scope="module")
def peft(folders: dict[str, Path]) -> Any:
    """A tiny Llama under PEFT, with all parts loaded by their names."""
    from peft import PeftModel
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=HIDDEN, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=4, vocab_size=VOCABULARY,
    )  # fmt: skip
    (first, folder), *others = folders.items()
    model = PeftModel.from_pretrained(LlamaForCausalLM(config), folder, adapter_name=first)
    for name, folder in others:
        model.load_adapter(folder, name)
    return model


def layers_of(peft: Any) -> dict[str, Any]:
    return {name: m for name, m in peft.base_model.model.named_modules() if hasattr(m, "lora_A")}


@pytest.mark.parametrize("weights", MIXES)
def test_peft_loads_it_as_the_weighted_sum_of_its_parts(
    peft: Any, composite: Any, load: Any, weights: dict[str, float]
) -> None:
    import torch

    mixed = load(composite(**weights))
    peft.load_adapter(mixed.folder, mixed.digest)
    for module, layer in layers_of(peft).items():
        deltas = [
            weight * layer.get_delta_weight(name.replace("_", "-"))
            for name, weight in weights.items()
            if name.replace("_", "-") in layer.lora_A
        ]
        assert (mixed.digest in layer.lora_A) == bool(deltas), module
        if deltas:
            found = layer.get_delta_weight(mixed.digest)
            torch.testing.assert_close(found, sum(deltas), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weights", [mix for mix in MIXES if mix.id not in ("rslora", "one part")])
def test_its_tensors_are_those_of_pefts_cat_to_the_bit(
    peft: Any, composite: Any, load: Any, weights: dict[str, float]
) -> None:
    """PEFT fills up to one rank with zeros. It multiplies by √r once more if its first is rsLoRA."""
    made = composite(**weights)
    tensors = load_file(load(made).folder / WEIGHTS)
    names = [part.key.replace("_", "-") for part in made.ordered]
    cat = f"cat-{made.recipe}"
    peft.add_weighted_adapter(
        names, [part.weight for part in made.ordered], cat, combination_type="cat"
    )
    seen = 0
    for module, layer in layers_of(peft).items():
        if cat not in layer.lora_A:
            continue
        a, b = layer.lora_A[cat].weight.numpy(), layer.lora_B[cat].weight.numpy()
        ours = tensors.get(key(module, "A")), tensors.get(key(module, "B"))
        if ours[0] is None:
            assert not b.any(), module
            continue
        rank = ours[0].shape[0]
        assert np.array_equal(ours[0], a[:rank]), module
        assert np.array_equal(ours[1], b[:, :rank]), module
        assert not a[rank:].any(), module
        seen += 2
    assert seen == len(tensors)


def test_a_module_has_the_ranks_of_the_parts_that_train_it(composite: Any, load: Any) -> None:
    mixed = load(composite(bf16=0.7, patterns=1, one_layer=1))
    tensors = load_file(mixed.folder / WEIGHTS)
    assert {module: len(tensors[key(module, "A")]) for module in MODULES} == {
        **dict.fromkeys(MODULES, 3),
        **dict.fromkeys(ending("q_proj", "v_proj"), 3 + 2),
        "model.layers.1.mlp.up_proj": 4,
        "model.layers.0.mlp.down_proj": 3 + 2,
    }
    config = json.loads((mixed.folder / CONFIG).read_text())
    assert (
        config["rank_pattern"]
        == config["alpha_pattern"]
        == {
            "q_proj": 5,
            "v_proj": 5,
            "model.layers.1.mlp.up_proj": 4,
            "model.layers.0.mlp.down_proj": 5,
        }
    )
    assert (mixed.rank, mixed.scalings, mixed.dtype) == (5, (1.0,), "F32")


def test_adapters_of_embeddings_are_concatenated_like_all_others(
    base: BaseArchitecture, load: Any, adapters: Any
) -> None:
    """An embedding's A is (r, vocabulary) and its B (hidden, r), looked up where others multiply."""
    adapters.defaults, random = {}, np.random.default_rng(4)
    names = ("model.embed_tokens.lora_embedding_", "lm_head.lora_")
    made = []
    for rank in (2, 3):
        sizes = {"A": (rank, VOCABULARY), "B": (HIDDEN, rank)}
        head = {"A.weight": (rank, HIDDEN), "B.weight": (VOCABULARY, rank)}
        values = {
            f"base_model.model.{name}{side}": random.normal(size=shape).astype(np.float32)
            for name, shapes in zip(names, (sizes, head), strict=True)
            for side, shape in shapes.items()
        }
        config = {"r": rank, "lora_alpha": 6, "target_modules": ["embed_tokens", "lm_head"]}
        folder = adapters.make(config, {name: raw(each) for name, each in values.items()})
        made.append((Part(str(rank), 0.5, validate_adapter(folder, base, LIMITS)), values))
    mixed = load_file(load(Composite(tuple(part for part, _ in made))).folder / WEIGHTS)
    for name, last in zip(names, ("", ".weight"), strict=True):
        a, b = (f"base_model.model.{name}{side}{last}" for side in "AB")
        wanted = sum(0.5 * part.adapter.scalings[0] * v[b] @ v[a] for part, v in made)
        np.testing.assert_allclose(mixed[b] @ mixed[a], wanted, rtol=1e-5, atol=1e-5)


# Identity


def test_equal_parts_and_weights_give_equal_bytes_in_any_order_and_under_any_key(
    base: BaseArchitecture, parts: dict[str, ValidatedAdapter], composite: Any, tmp_path: Path
) -> None:
    one = composite(bf16=0.7, patterns=1)
    renamed = Composite((Part("x", 1.0, parts["patterns"]), Part("y", 0.7, parts["bf16"])))
    made = [
        AdapterStore(tmp_path / name).import_adapter(each, base, LIMITS)
        for name, each in (("one", one), ("other", renamed))
    ]
    assert one.recipe == renamed.recipe
    assert made[0].digest == made[1].digest
    for name in (CONFIG, WEIGHTS):
        assert (made[0].folder / name).read_bytes() == (made[1].folder / name).read_bytes()


def test_other_weights_or_parts_are_another_adapter(composite: Any, load: Any) -> None:
    mixes = [
        composite(bf16=0.7, patterns=1),
        composite(bf16=0.71, patterns=1),
        composite(bf16=-0.7, patterns=1),
        composite(bf16=1, patterns=0.7),
        composite(bf16=0.7, rslora=1),
        composite(bf16=0.7, patterns=1, rslora=1),
    ]
    assert len({load(mix).digest for mix in mixes}) == len(mixes)
    assert len({mix.recipe for mix in mixes}) == len(mixes)


def test_a_check_finds_the_digest_that_the_store_gives_and_leaves_nothing(
    base: BaseArchitecture, composite: Any, load: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    mix = composite(bf16=0.7, patterns=1)
    assert validate_source(mix, base, LIMITS).digest == load(mix).digest
    assert not list((tmp_path / "scratch").iterdir())


def test_a_check_without_room_for_temporary_files_says_so(
    base: BaseArchitecture, composite: Any, monkeypatch: Any, tmp_path: Path, refused: Any
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with refused("store_unwritable", "No such file", "TMPDIR"):
        validate_source(composite(bf16=0.7), base, LIMITS)


# Refusals


def test_ranks_that_together_exceed_the_limit_are_refused(
    composite: Any, base: BaseArchitecture, store: AdapterStore, refused: Any, tmp_path: Path
) -> None:
    named = ("bf16 (rank 2), patterns (rank 4)", "rank 5 together", "_proj, over the limit of 4")
    with refused("rank_over_limit", *named):
        store.import_adapter(composite(bf16=0.7, patterns=1), base, AdapterLimits(4, 1 << 20))
    assert stored(tmp_path / "store") == set()
    assert store.import_adapter(composite(bf16=1, patterns=1), base, AdapterLimits(5, 1 << 20))


def test_one_over_the_byte_limit_is_refused(
    base: BaseArchitecture, store: AdapterStore, parts: dict[str, ValidatedAdapter], refused: Any
) -> None:
    part = parts["patterns"]
    twice = Composite((Part("x", 1.0, part), Part("y", -2.0, part)))
    whole = store.import_adapter(twice, base, LIMITS).size_bytes
    store.collect(set())
    for limit in (whole - 1, part.size_bytes):
        with refused("adapter_too_large", "What x, y make", str(limit)):
            store.import_adapter(twice, base, AdapterLimits(64, limit))


def test_weights_that_would_overflow_the_engine_are_refused(
    composite: Any, load: Any, refused: Any
) -> None:
    with refused("delta_too_large", "What bf16, patterns make with their weights is refused: "):
        load(composite(bf16=1e4, patterns=1))
    with refused("value_nan", "What bf16 make"):
        load(composite(bf16=float("nan")))


def test_parts_of_another_base_are_refused(
    composite: Any, kit: Any, store: AdapterStore, refused: Any, tmp_path: Path
) -> None:
    other = BaseArchitecture.from_folder(kit.write_base(tmp_path / "other", {"rope_theta": 5e5}))
    with refused("part_of_another_base", "Its part bf16"):
        store.import_adapter(composite(bf16=0.7), other, LIMITS)


def test_a_part_that_is_gone_is_named(
    composite: Any, base: BaseArchitecture, store: AdapterStore, refused: Any, tmp_path: Path,
    folders: dict[str, Path],
) -> None:  # fmt: skip
    gone = tmp_path / "gone"
    gone.mkdir()
    for name in (CONFIG, WEIGHTS):
        (gone / name).write_bytes((folders["bf16"] / name).read_bytes())
    part = Part("mine", 1.0, validate_adapter(gone, base, LIMITS))
    (gone / WEIGHTS).unlink()
    with refused("part_refused", "Its part mine is refused (file_missing): adapter_model"):
        store.import_adapter(Composite((part,)), base, LIMITS)
