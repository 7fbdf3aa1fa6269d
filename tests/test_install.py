"""The set-up of a clone: a machine that cannot run stackserve is told so in one line."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent / "requirements" / "install.py"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, on a machine that has all it needs."""
    spec = importlib.util.spec_from_file_location("install", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "cpuinfo").write_text("flags : fpu sse2 avx avx2\n")
    monkeypatch.setattr(module, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(sys, "version_info", (3, 11, 7, "final", 0))
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=50e9))
    return module


def test_a_machine_with_all_that_is_needed_passes(install: ModuleType) -> None:
    install.check_machine()


LACKS: dict[str, tuple[Callable[[Any, Any], None], str]] = {
    "Python 3.12": (
        lambda patch, _: patch.setattr(sys, "version_info", (3, 12, 1, "final", 0)),
        "the locks are for Python 3.11",
    ),
    "x86-64": (
        lambda patch, _: patch.setattr(platform, "machine", lambda: "aarch64"),
        "not Linux on aarch64",
    ),
    "AVX2": (lambda _, module: module.CPUINFO.write_text("flags : sse2 avx\n"), "no AVX2"),
    "disk space": (
        lambda patch, _: patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1e9)),
        "1.0 GB free and 4 GB are needed",
    ),
}


@pytest.mark.parametrize("lacking", LACKS)
def test_a_machine_that_lacks_something_is_told_in_one_line(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    spoil, told = LACKS[lacking]
    spoil(monkeypatch, install)
    with pytest.raises(SystemExit) as refused:
        install.check_machine()
    line = str(refused.value)
    assert told in line
    assert "\n" not in line


def test_an_environment_is_stale_when_its_lock_or_the_kernels_source_changes(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook, source = "kernels/build_hook.py", "kernels/csrc/lora.cpp"
    locks = [f"requirements/{name}.lock" for name in ("cpu", "runtimes", "dev")]
    for name in (*locks, "pyproject.toml", hook, source, "python"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("one")
    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setattr(install, "SOURCES", tmp_path / "kernels/csrc")
    monkeypatch.setattr(install, "PYTHON", tmp_path / "python")
    monkeypatch.setattr(install, "STAMP", tmp_path / "stamp")
    assert install.installed() == set()
    for name in ("requirements/cpu.lock", source):
        (tmp_path / "stamp").write_text(install.stamp("cpu.lock") + "\n")
        assert install.installed() == {"cpu.lock"}
        (tmp_path / name).write_text("two")
        assert install.installed() == set()
