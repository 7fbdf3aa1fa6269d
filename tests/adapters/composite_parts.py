"""Adapters of the tiny base that differ in all that a composite must respect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stackserve.adapters import AdapterLimits
from tests.tiny_models import SHAPES, Adapters, key, raw

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODULES = tuple(f"model.layers.{layer}.{name}" for layer in range(2) for name in SHAPES)
LIMITS = AdapterLimits(max_rank=64, max_bytes=1 << 20)


def ending(*names: str) -> tuple[str, ...]:
    return tuple(module for module in MODULES if module.endswith(names))


def random_pairs(seed: int, ranks: Mapping[str, int], dtype: str = "F32") -> dict[str, Any]:
    random = np.random.default_rng(seed)
    tensors = {}
    for module, rank in ranks.items():
        outputs, inputs = SHAPES[module.partition("layers.")[2].partition(".")[2]]
        tensors[key(module, "A")] = raw(random.normal(size=(rank, inputs)), dtype)
        tensors[key(module, "B")] = raw(random.normal(size=(outputs, rank)), dtype)
    return tensors


def make_parts(root: Path) -> dict[str, Path]:
    """Adapters that differ in all that a composite must respect."""
    make = Adapters(root, defaults={}).make
    all_linear = dict.fromkeys(MODULES, 3) | {"model.layers.1.mlp.up_proj": 4}
    first_layer = dict.fromkeys(ending("down_proj")[:1], 2)
    return {
        "bf16": make(
            {"r": 2, "lora_alpha": 3},
            random_pairs(0, dict.fromkeys(ending("q_proj", "v_proj"), 2), "BF16"),
        ),
        "patterns": make(
            {
                "r": 3, "lora_alpha": 5, "target_modules": [name.split(".")[1] for name in SHAPES],
                "rank_pattern": {"layers.1.mlp.up_proj": 4}, "alpha_pattern": {"down_proj": 7},
            },
            random_pairs(1, all_linear),
        ),
        "rslora": make(
            {"r": 4, "lora_alpha": 5, "use_rslora": True},
            random_pairs(2, dict.fromkeys(ending("q_proj", "v_proj"), 4), "F16"),
        ),
        "one-layer": make(
            {"r": 2, "target_modules": ["layers.0.mlp.down_proj"]}, random_pairs(3, first_layer)
        ),
    }  # fmt: skip


def stored(root: Path) -> set[str]:
    """The digests in a store, and whatever else lies there but should not."""
    return {path.name for path in root.iterdir() if path.suffix != ".lock"} - {"composites"}
