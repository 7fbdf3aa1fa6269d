"""The configurations that ship with stackserve."""

from __future__ import annotations

from pathlib import Path


def packaged_config(name: str) -> Path:
    """One of them: beside this file in a wheel, in configs/ in a clone."""
    packaged = Path(__file__).with_name(name)
    return packaged if packaged.exists() else Path(__file__).parents[2] / "configs" / name
