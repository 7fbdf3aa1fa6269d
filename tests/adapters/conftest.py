"""What the tests of adapters share, on top of tests/tiny_models.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stackserve.adapters import AdapterLimits, BaseArchitecture
from stackserve.errors import ArtifactRejected
from tests import tiny_models
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
