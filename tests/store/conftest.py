"""An artifact store in a folder that it has to make."""

from __future__ import annotations

from pathlib import Path

import pytest

from stackserve.store.artifacts import ArtifactStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "store"


@pytest.fixture
def store(root: Path) -> ArtifactStore:
    return ArtifactStore(root)
