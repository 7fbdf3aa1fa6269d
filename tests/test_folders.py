"""Where things are kept: the environment decides, the home is the fallback."""

from __future__ import annotations

from pathlib import Path

import pytest

from stackserve.folders import cache_root, log_root


@pytest.mark.parametrize(
    ("environment", "cache"),
    [
        ({"STACKSERVE_CACHE": "/data/models", "XDG_CACHE_HOME": "/data/cache"}, "/data/models"),
        ({"XDG_CACHE_HOME": "/data/cache"}, "/data/cache/stackserve"),
        ({"XDG_CACHE_HOME": "~/cache"}, "/home/me/cache/stackserve"),
        ({}, "/home/me/.cache/stackserve"),
    ],
)
def test_the_cache_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], cache: str
) -> None:
    for name in ("STACKSERVE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **environment}.items():
        monkeypatch.setenv(name, value)
    assert cache_root() == Path(cache)


def test_logs_are_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/data/state")
    assert log_root() == Path("/data/state/stackserve/log")
