"""A base's shapes from its config.json and its headers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from stackserve.adapters import BaseArchitecture

from_folder = BaseArchitecture.from_folder


def shard(folder: Path, tensors: dict[str, Any]) -> None:
    """Replace the single file by two shards and their index."""
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in halves.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_reads_modules_sizes_and_dtype(kit: Any, tmp_path: Path) -> None:
    base = from_folder(kit.write_base(tmp_path / "base"))
    assert base.architecture == "LlamaForCausalLM"
    assert (base.model_type, base.dtype) == ("llama", "BF16")
    assert (base.layers, base.hidden_size, base.vocabulary_size) == (2, 8, 32)
    assert base.modules["model.layers.1.mlp.down_proj"] == (8, 16)
    assert "model.norm" not in base.modules


def test_a_tied_output_layer_has_the_shape_of_the_input_embedding(kit: Any, tmp_path: Path) -> None:
    assert from_folder(kit.write_base(tmp_path / "tied")).modules["lm_head"] == (32, 8)
    untied = kit.write_base(tmp_path / "untied", {"tie_word_embeddings": False})
    assert "lm_head" not in from_folder(untied).modules


def test_without_a_declared_dtype_the_one_of_most_bytes_counts(kit: Any, tmp_path: Path) -> None:
    assert from_folder(kit.write_base(tmp_path / "base", {"dtype": None})).dtype == "F16"


def test_sharded_and_single_bases_have_the_same_modules(kit: Any, tmp_path: Path) -> None:
    single = from_folder(kit.write_base(tmp_path / "single"))
    folder = kit.write_base(tmp_path / "sharded")
    shard(folder, kit.base_tensors())
    sharded = from_folder(folder)
    assert sharded.modules == single.modules
    assert sharded.fingerprint != single.fingerprint


def test_the_fingerprint_follows_config_and_shapes(kit: Any, tmp_path: Path) -> None:
    one = from_folder(kit.write_base(tmp_path / "one"))
    assert from_folder(kit.write_base(tmp_path / "two")).fingerprint == one.fingerprint
    other = from_folder(kit.write_base(tmp_path / "other", {"vocab_size": 31}))
    assert other.fingerprint != one.fingerprint


def test_links_in_a_base_are_followed(kit: Any, tmp_path: Path) -> None:
    folder = kit.write_base(tmp_path / "base")
    (folder / "config.json").rename(tmp_path / "blob")
    (folder / "config.json").symlink_to(tmp_path / "blob")
    assert from_folder(folder).layers == 2


@pytest.mark.parametrize("path", ["nothing", "a\0b", "x" * 5000])
def test_refuses_a_base_that_is_not_there(tmp_path: Path, refused: Any, path: str) -> None:
    with refused("base_missing", "config.json"):
        from_folder(tmp_path / path)


def test_refuses_a_base_without_safetensors(kit: Any, tmp_path: Path, refused: Any) -> None:
    folder = kit.write_base(tmp_path / "base")
    (folder / "model.safetensors").unlink()
    with refused("base_missing", "model.safetensors.index.json"):
        from_folder(folder)
    (folder / "model.safetensors").mkdir()
    with refused("base_missing", "model.safetensors"):
        from_folder(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("architectures", None), ("architectures", []), ("architectures", [1]),
        ("model_type", ""), ("num_hidden_layers", 0), ("hidden_size", True),
        ("vocab_size", "32"), ("vocab_size", 10**12),
    ],
)  # fmt: skip
def test_refuses_a_config_without_what_is_needed(
    kit: Any, tmp_path: Path, refused: Any, field: str, value: Any
) -> None:
    with refused("base_config_invalid", field, ascii(value)):
        from_folder(kit.write_base(tmp_path / "base", {field: value}))


def test_refuses_a_config_that_is_not_json(kit: Any, tmp_path: Path, refused: Any) -> None:
    folder = kit.write_base(tmp_path / "base")
    (folder / "config.json").write_bytes(b'{"a": NaN}')
    with refused("base_config_invalid", "config.json", "NaN"):
        from_folder(folder)


def test_refuses_broken_weights(kit: Any, tmp_path: Path, refused: Any) -> None:
    folder = kit.write_base(tmp_path / "base")
    (folder / "model.safetensors").write_bytes(b"PK\x03\x04" + bytes(100))
    with refused("base_weights_invalid", "model.safetensors"):
        from_folder(folder)


def test_refuses_a_base_without_tensors_and_dtype(kit: Any, tmp_path: Path, refused: Any) -> None:
    folder = kit.write_base(tmp_path / "base", {"dtype": None})
    save_file({}, folder / "model.safetensors")
    with refused("base_weights_invalid", "no tensors"):
        from_folder(folder)


@pytest.mark.parametrize(
    ("weight_map", "code", "named"),
    [
        (None, "base_weights_invalid", "None"),
        ({}, "base_weights_invalid", "{}"),
        ({"a": 1}, "base_weights_invalid", "1"),
        ({"a": "../one.safetensors"}, "base_weights_invalid", "../one"),
        ({"a": "one.bin"}, "base_weights_invalid", "one.bin"),
        ({"a": "three.safetensors"}, "base_missing", "three.safetensors"),
        ({"a": "one.safetensors"}, "base_weights_invalid", "lacks 'a'"),
    ],
)
def test_refuses_an_index_that_does_not_match_its_shards(
    kit: Any, tmp_path: Path, refused: Any, weight_map: Any, code: str, named: str
) -> None:
    folder = kit.write_base(tmp_path / "base")
    shard(folder, kit.base_tensors())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with refused(code, named):
        from_folder(folder)


def test_refuses_a_tensor_in_two_shards(kit: Any, tmp_path: Path, refused: Any) -> None:
    folder = kit.write_base(tmp_path / "base")
    shard(folder, kit.base_tensors())
    for name in ("one", "two"):
        save_file({"same": np.zeros(1, np.float16)}, folder / f"{name}.safetensors")
    with refused("base_weights_invalid", "two.safetensors repeats 'same'"):
        from_folder(folder)


def test_refuses_a_packed_quantisation(kit: Any, tmp_path: Path, refused: Any) -> None:
    folder = kit.write_base(tmp_path / "base")
    save_file({"a.q_proj.qweight": np.zeros((1, 8), np.int32)}, folder / "model.safetensors")
    with refused("base_quantization_unsupported", "a.q_proj.qweight"):
        from_folder(folder)
