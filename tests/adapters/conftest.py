"""What the tests of adapters share, on top of tests/tiny_models.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stackserve.adapters import (
    AdapterLimits,
    AdapterStore,
    BaseArchitecture,
    Composite,
    Part,
    ValidatedAdapter,
    validate_adapter,
)
from stackserve.errors import ArtifactRejected
from tests import tiny_models
from tests.adapters.composite_parts import LIMITS, make_parts
from tests.tiny_models import Adapters, write_base


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseArchitecture:
    return BaseArchitecture.from_folder(write_base(tmp_path_factory.mktemp("bases") / "base"))


@pytest.fixture
def adapters(tmp_path: Path) -> Adapters:
    return Adapters(tmp_path / "adapters")


@pytest.fixture
def limits() -> AdapterLimits:
    return AdapterLimits(max_rank=16, max_bytes=1 << 20)


@pytest.fixture
def kit() -> Any:
    """The helpers of tests/tiny_models.py."""
    return tiny_models


@pytest.fixture
def refused() -> Any:
    """`with refused("code", "part of the message", ...)`: the refusal, and what it must name."""

    @contextmanager
    def expect(code: str, *named: str) -> Iterator[None]:
        with pytest.raises(ArtifactRejected) as caught:
            yield
        assert caught.value.code == code, caught.value.message
        for part in named:
            assert part in caught.value.message
        assert caught.value.message.endswith(".")
        assert "/tmp" not in caught.value.message
        assert caught.value.message.isprintable()

    return expect


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="session")
def parts(folders: dict[str, Path], base: BaseArchitecture) -> dict[str, ValidatedAdapter]:
    return {name: validate_adapter(folder, base, LIMITS) for name, folder in folders.items()}


@pytest.fixture
def composite(parts: dict[str, ValidatedAdapter]) -> Any:
    """A composite from names of `parts` and their weights."""
    return lambda **weights: Composite(
        tuple(Part(name, weight, parts[name.replace("_", "-")]) for name, weight in weights.items())
    )


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "store")


@pytest.fixture
def load(store: AdapterStore, base: BaseArchitecture) -> Any:
    return lambda composite: store.import_adapter(composite, base, LIMITS)
