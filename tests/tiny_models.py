"""A tiny Llama base, and a factory of adapters for it that can be made wrong in one place."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

HIDDEN, KV, INTERMEDIATE, VOCABULARY, LAYERS = 8, 4, 16, 32, 2
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV, HIDDEN),
    "self_attn.v_proj": (KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}
BASE_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "vocab_size": VOCABULARY,
    "dtype": "bfloat16",
    "tie_word_embeddings": True,
}
# What PEFT 0.21 writes.
PEFT_CONFIG: dict[str, Any] = {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None,
    "auto_mapping": None, "base_model_name_or_path": "someone/else", "bias": "none",
    "corda_config": None, "ensure_weight_tying": False, "eva_config": None,
    "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True,
    "init_lora_weights": True, "kasa_config": None, "layer_replication": None,
    "layers_pattern": None, "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 4,
    "lora_bias": False, "lora_dropout": 0.0, "lora_ga_config": None, "megatron_config": None,
    "megatron_core": "megatron.core", "modules_to_save": None, "monteclora_config": None,
    "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16, "r": 2,
    "rank_pattern": {}, "revision": None, "target_modules": ["q_proj", "v_proj"],
    "target_parameters": None, "task_type": "CAUSAL_LM", "trainable_token_indices": None,
    "use_bdlora": None, "use_dora": False, "use_qalora": False, "use_rslora": False,
    "velora_config": None,
}  # fmt: skip


@dataclass(frozen=True)
class RawTensor:
    """A tensor as it lies in the file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def raw(values: Any, dtype: str = "F32") -> RawTensor:
    """Encode numbers; bf16 is the upper half of fp32."""
    array = np.asarray(values, dtype=np.float32)
    if dtype == "BF16":
        data = (array.view(np.uint32) >> 16).astype("<u2").tobytes()
    else:
        data = array.astype(
            {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I32": "<i4"}[dtype]
        ).tobytes()
    return RawTensor(dtype, array.shape, data)


def filled(shape: tuple[int, ...], value: float = 0.5, dtype: str = "F32") -> RawTensor:
    return raw(np.full(shape, value), dtype)


def safetensors_bytes(tensors: Mapping[str, RawTensor]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, tensor in tensors.items():
        end = position + len(tensor.data)
        header[name] = {
            "dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [position, end]
        }  # fmt: skip
        position = end
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(t.data for t in tensors.values())


def key(module: str, side: str) -> str:
    return f"base_model.model.{module}.lora_{side}.weight"


def pair(module: str, rank: int = 2, dtype: str = "F32") -> dict[str, RawTensor]:
    outputs, inputs = SHAPES[module.partition("layers.")[2].partition(".")[2]]
    return {
        key(module, "A"): filled((rank, inputs), dtype=dtype),
        key(module, "B"): filled((outputs, rank), dtype=dtype),
    }


Q0 = "model.layers.0.self_attn.q_proj"


def default_tensors(dtype: str = "F32", rank: int = 2) -> dict[str, RawTensor]:
    tensors: dict[str, RawTensor] = {}
    for layer in range(LAYERS):
        for name in ("q_proj", "v_proj"):
            tensors |= pair(f"model.layers.{layer}.self_attn.{name}", rank, dtype)
    return tensors


@dataclass
class Adapters:
    """Makes adapter folders: `config` overrides fields, `tensors` overrides or (None) removes."""

    root: Path
    made: int = 0
    defaults: dict[str, RawTensor] = field(default_factory=default_tensors)

    def make(
        self,
        config: Mapping[str, Any] | None = None,
        tensors: Mapping[str, RawTensor | None] | None = None,
    ) -> Path:
        self.made += 1
        folder = self.root / f"adapter{self.made}"
        folder.mkdir(parents=True)
        merged = {**self.defaults, **(tensors or {})}
        present = {name: tensor for name, tensor in merged.items() if tensor is not None}
        (folder / "adapter_config.json").write_text(json.dumps({**PEFT_CONFIG, **(config or {})}))
        (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(present))
        return folder


def write_base(folder: Path, config: Mapping[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**BASE_CONFIG, **(config or {})}))
    save_file(base_tensors(), folder / "model.safetensors")
    return folder


def base_tensors() -> dict[str, Any]:
    tensors = {
        "model.embed_tokens.weight": np.zeros((VOCABULARY, HIDDEN), np.float16),
        "model.norm.weight": np.zeros(HIDDEN, np.float16),
    }
    for layer in range(LAYERS):
        for name, shape in SHAPES.items():
            tensors[f"model.layers.{layer}.{name}.weight"] = np.zeros(shape, np.float16)
        tensors[f"model.layers.{layer}.mlp.router.weight"] = np.zeros((4, HIDDEN), np.float16)
    return tensors
