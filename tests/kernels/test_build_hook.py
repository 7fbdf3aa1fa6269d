"""The C++ kernels are compiled when the package is, and a machine that cannot is told why."""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """`kernels/build_hook.py`, which writes its library into a scratch folder."""
    spec = importlib.util.spec_from_file_location("build_hook", ROOT / "kernels/build_hook.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "LIBRARY", tmp_path / "_cpu.so")
    return module


class Application:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def display_warning(self, message: str) -> None:
        self.warnings.append(message)


def build(hook: ModuleType, root: Path) -> tuple[dict[str, Any], list[str]]:
    """What a build of the package asks hatchling for, and what it tells the user."""
    app = Application()
    made = hook.KernelsHook(str(root), {}, None, None, str(root), "wheel", app)
    data: dict[str, Any] = {"artifacts": []}
    made.initialize("standard", data)
    return data, app.warnings


def test_a_wheel_without_a_compiler_is_pure_and_says_that_torch_will_serve(
    hook: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(hook.shutil, "which", lambda name: None)
    data, (warning,) = build(hook, tmp_path)
    assert "torch will serve: there is no C++ compiler" in warning
    assert data == {"artifacts": []}


def test_a_library_that_cannot_be_compiled_again_is_removed(
    hook: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hook.LIBRARY.write_bytes(b"old")
    monkeypatch.setenv("CXX", str(tmp_path / "missing"))
    _, (warning,) = build(hook, tmp_path)
    assert "missing cannot be run: No such file or directory" in warning
    assert not hook.LIBRARY.exists()


def test_a_compiler_that_fails_is_quoted_in_one_line(
    hook: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text(
        "#!/bin/sh\necho from here >&2\necho error: unknown option -mamx-tile >&2\nexit 1\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(hook.CannotCompileError) as refusal:
        hook.compile_library(hook.LIBRARY)
    assert str(refusal.value) == "the C++ compiler failed: error: unknown option -mamx-tile"


def test_another_processor_is_refused(hook: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(hook.CannotCompileError, match="for Linux on x86-64"):
        hook.compile_library(hook.LIBRARY)


def test_the_source_compiles_without_a_warning_and_makes_a_wheel_of_this_platform(
    hook: ModuleType, tmp_path: Path
) -> None:
    data, warnings = build(hook, tmp_path)
    if warnings:
        pytest.skip(warnings[0])
    assert hook.LIBRARY.stat().st_size > 0
    assert data["tag"] == "py3-none-linux_x86_64"
    assert data["artifacts"] == ["/_cpu.so"]
