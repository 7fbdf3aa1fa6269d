"""A model is compiled only where there is something to compile with, and the rest is told why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from stackserve.engine import compat_cpu


@pytest.fixture(autouse=True)
def _no_compiler_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)


def test_a_machine_without_a_compiler_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compat_cpu.shutil, "which", lambda name: None)
    assert "apt install g++" in compat_cpu.what_compiling_lacks()


def test_a_machine_without_pythons_headers_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(compat_cpu.shutil, "which", lambda name: name)
    monkeypatch.setattr(compat_cpu.sysconfig, "get_path", lambda name: str(tmp_path))
    assert "apt install python3-dev" in compat_cpu.what_compiling_lacks()
    (tmp_path / "Python.h").touch()
    assert compat_cpu.what_compiling_lacks() == ""
