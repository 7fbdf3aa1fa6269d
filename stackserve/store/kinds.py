"""What an artifact is, by the files at its top."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path

MOST_CONFIG = 4 << 20
"""Bytes; a larger one is not an LLM's."""


class ArtifactKind(StrEnum):
    BASE = "base"
    """An LLM: config.json that names an architecture, and safetensors."""
    ADAPTER = "adapter"
    """A PEFT adapter: adapter_config.json."""
    OTHER = "other"
    """A model of another framework."""


def detect(folder: Path) -> ArtifactKind:
    """Cheap, and no more than a guess: who takes it for a base or an adapter still validates it."""
    if (folder / "adapter_config.json").is_file():
        return ArtifactKind.ADAPTER
    if any(folder.glob("*.safetensors")) and _names_architecture(folder / "config.json"):
        return ArtifactKind.BASE
    return ArtifactKind.OTHER


def _names_architecture(config: Path) -> bool:
    try:
        with config.open("rb") as file:
            content = json.loads(file.read(MOST_CONFIG))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and bool(content.get("architectures"))
