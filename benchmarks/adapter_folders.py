"""Synthetic LoRA adapters as PEFT folders, and a plain checkpoint with one of them merged in."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from stackserve.adapters import BaseArchitecture

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
STRENGTH = 0.2
"""How far a delta moves a layer's output, in units of its input's root mean square."""


def write_adapter(folder: Path, base: BaseArchitecture, rank: int, seed: int) -> None:
    """Random bf16 weights of all seven projections: small enough to keep the model a language model,
    large enough that greedy answers change. The same seed gives the same bytes.
    """
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module in sorted(projections(base)):
        out, into = base.modules[module]
        a = torch.randn(rank, into, generator=generator) / math.sqrt(into)
        b = torch.randn(out, rank, generator=generator) * (STRENGTH / math.sqrt(rank))
        tensors[_name(module, "A")] = a.to(torch.bfloat16)
        tensors[_name(module, "B")] = b.to(torch.bfloat16)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "base_model_name_or_path": "benchmark",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": list(PROJECTIONS),
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))


def projections(base: BaseArchitecture) -> Mapping[str, tuple[int, int]]:
    """The modules of a base that get weights: (out, in) by name."""
    return {
        name: shape
        for name, shape in base.modules.items()
        if name.rpartition(".")[2] in PROJECTIONS
    }


def write_merged(folder: Path, base: Path, adapter: Path) -> None:
    """The base with W + scale · B A in place of W, in W's dtype; every other file copied."""
    shutil.copytree(base, folder)
    weights = folder / "model.safetensors"
    config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    tensors = {}
    with (
        safe_open(base / "model.safetensors", framework="pt") as plain,
        safe_open(adapter / "adapter_model.safetensors", framework="pt") as lora,
    ):
        adapted = set(lora.keys())
        for name in plain.keys():  # noqa: SIM118  # not a mapping: it cannot be iterated
            weight = plain.get_tensor(name)
            module = name.removesuffix(".weight")
            if _name(module, "A") in adapted:
                a = lora.get_tensor(_name(module, "A")).float()
                b = lora.get_tensor(_name(module, "B")).float()
                weight = (weight.float() + scale * (b @ a)).to(weight.dtype)
            tensors[name] = weight.contiguous()
    weights.unlink()
    save_file(tensors, weights, metadata={"format": "pt"})


def _name(module: str, side: str) -> str:
    return f"base_model.model.{module}.lora_{side}.weight"
