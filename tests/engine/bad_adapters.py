"""A good adapter made bad in one way each, from the bytes of its two files."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BF16_NAN, BF16_INFINITE = b"\xc0\x7f", b"\x80\x7f"


def _config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config | changes))

    return change


def _header(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        header = json.dumps(change(json.loads(data[8 : 8 + size]))).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + data[8 + size :])

    return apply


def _weights(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(change((folder / WEIGHTS).read_bytes()))

    return apply


def _renamed(old: str, new: str) -> Callable[[Path], None]:
    return _header(lambda h: {name.replace(old, new): info for name, info in h.items()})


def _transposed(header: dict[str, Any]) -> dict[str, Any]:
    name = next(n for n in header if n.endswith("lora_A.weight"))
    return header | {name: header[name] | {"shape": header[name]["shape"][::-1]}}


def _retyped(header: dict[str, Any]) -> dict[str, Any]:
    return {n: i if n == "__metadata__" else i | {"dtype": "U16"} for n, i in header.items()}


def _ends_with(two_bytes: bytes) -> Callable[[Path], None]:
    return _weights(lambda data: data[:-2] + two_bytes)


def _pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04K\x01.")


def _linked(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.with_suffix(".elsewhere"))
    (folder / WEIGHTS).symlink_to(folder.with_suffix(".elsewhere"))


def _doubled(folder: Path) -> None:
    text = (folder / CONFIG).read_text().strip()
    (folder / CONFIG).write_text(text[:-1].rstrip() + ', "r": 4}')


BAD: dict[str, tuple[str, Callable[[Path], None]]] = {
    "nan": ("value_nan", _ends_with(BF16_NAN)),
    "infinite": ("value_infinite", _ends_with(BF16_INFINITE)),
    "rank-over-limit": ("rank_over_limit", _config(r=1024)),
    "lying-rank": ("rank_mismatch", _config(r=3)),
    "rank-is-text": ("rank_invalid", _config(r="8")),
    "alpha-nan": ("config_invalid", _config(lora_alpha=float("nan"))),
    "unknown-module": ("module_not_in_base", _renamed("q_proj", "w_proj")),
    "layer-99": ("layer_out_of_range", _renamed("layers.29.", "layers.99.")),
    "wrong-shape": ("shape_mismatch", _header(_transposed)),
    "wrong-dtype": ("dtype_unsupported", _header(_retyped)),
    "half-a-pair": ("lora_pair_incomplete", _renamed("layers.0.self_attn.q_proj.lora_B", "layers.0.mlp.down_proj.lora_B")),
    "dora": ("unsupported_feature", _config(use_dora=True)),
    "bias": ("unsupported_feature", _config(bias="all")),
    "modules-to-save": ("unsupported_feature", _config(modules_to_save=["lm_head"])),
    "path-escape": ("tensor_name_invalid", _renamed("model.layers.0.", "../../layers.0.")),
    "truncated": ("weights_invalid", _weights(lambda data: data[: len(data) // 2])),
    "empty-file": ("weights_invalid", _weights(lambda data: b"")),
    "header-bomb": ("weights_invalid", _weights(lambda data: struct.pack("<Q", 2**40) + data[8:])),
    "duplicate-key": ("config_invalid", _doubled),
    "pickle": ("pickle_weights", _pickled),
    "symlink": ("symlink", _linked),
    "missing": ("folder_missing", shutil.rmtree),
}  # fmt: skip
"""Inference key → (the code it is refused with, how a good adapter becomes so)."""


def make_bad_adapters(good: Path, root: Path) -> None:
    """Write one folder for each of `BAD` under `root`."""
    for key, (_, spoil) in BAD.items():
        shutil.copytree(good, root / key)
        spoil(root / key)
