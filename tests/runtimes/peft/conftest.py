"""A tiny Llama and its adapters, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runtimes.peft.tiny_peft import KINDS, make_adapter, write_llama


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("bases") / "llama")


@pytest.fixture(scope="session")
def adapter(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an adapter of a kind."""
    root = tmp_path_factory.mktemp("adapters")
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = make_adapter(llama, root / kind, KINDS[kind], seed=len(made) + 1)
        return made[kind]

    return make
