"""Kinds: what an artifact is taken for, by the files at its top."""

from __future__ import annotations

from pathlib import Path

import pytest

from stackserve.store.kinds import MOST_CONFIG, ArtifactKind, detect

LLM = b'{"architectures": ["LlamaForCausalLM"]}'


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"adapter_config.json": b"{}"}, ArtifactKind.ADAPTER),
        ({"adapter_config.json": b"", "config.json": LLM, "a.safetensors": b""}, ArtifactKind.ADAPTER),
        ({"config.json": LLM, "model.safetensors": b""}, ArtifactKind.BASE),
        ({"config.json": LLM, "model-00001-of-00002.safetensors": b""}, ArtifactKind.BASE),
        ({"config.json": LLM}, ArtifactKind.OTHER),
        ({"config.json": LLM, "pytorch_model.bin": b""}, ArtifactKind.OTHER),
        ({"config.json": LLM, "below/model.safetensors": b""}, ArtifactKind.OTHER),
        ({"below/adapter_config.json": b"{}"}, ArtifactKind.OTHER),
        ({"score.py": b"", "runtime.yaml": b""}, ArtifactKind.OTHER),
        ({}, ArtifactKind.OTHER),
    ],
)  # fmt: skip
def test_the_top_of_a_folder_tells_its_kind(
    tmp_path: Path, files: dict[str, bytes], kind: ArtifactKind
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert detect(tmp_path) is kind


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"not JSON",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"architectures": []}',
        b"[" * 100_000,
        LLM[:-1] + b" " * MOST_CONFIG + b"}",
    ],
    ids=["empty", "text", "no UTF-8", "list", "no key", "no name", "nested", "large"],
)
def test_a_config_that_names_no_architecture_makes_no_base(tmp_path: Path, config: bytes) -> None:
    (tmp_path / "config.json").write_bytes(config)
    (tmp_path / "model.safetensors").touch()
    assert detect(tmp_path) is ArtifactKind.OTHER


def test_a_folder_named_like_a_config_is_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    (tmp_path / "adapter_config.json").mkdir()
    (tmp_path / "model.safetensors").touch()
    assert detect(tmp_path) is ArtifactKind.OTHER
