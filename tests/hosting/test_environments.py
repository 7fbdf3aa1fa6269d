"""A worker in a virtual environment of its own."""

from __future__ import annotations

import venv
from pathlib import Path

import msgspec
import numpy as np

from stackserve.runtime_settings import WorkerSettings
from tests.hosting.fakes import fake_group, question
from tests.running import running


def environment(folder: Path, *packages: str) -> Path:
    """A virtual environment with these folders of this one's packages and nothing else; its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for package in packages:
        (site / Path(package).name).symlink_to(package)
    return folder / "bin" / "python"


def command_of(pid: int | None) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


async def test_it_needs_msgspec_numpy_and_its_framework_alone(tmp_path: Path) -> None:
    libraries = Path(np.__file__).parent.with_name("numpy.libs")
    packages = [Path(msgspec.__file__).parent, Path(np.__file__).parent, libraries]
    python = environment(tmp_path / "own", *map(str, packages))
    group = fake_group(tmp_path, a={"factor": 3})
    group = group.model_copy(update={"workers": {"fake": WorkerSettings(python=str(python))}})
    async with running(group) as served:
        assert str(python) in command_of(served.status("zoo").worker_pid)
        async with served.http.post("/v2/models/a/infer", json=question([1.0, 2.0])) as response:
            assert (await response.json())["outputs"][0]["data"] == [3, 6]


async def test_what_it_lacks_is_told(tmp_path: Path) -> None:
    python = environment(tmp_path / "own")
    group = fake_group(tmp_path, a={})
    group = group.model_copy(update={"workers": {"fake": WorkerSettings(python=str(python))}})
    async with running(group, until=None) as served:
        failed = await served.until("failed", "zoo")
    assert "No module named 'msgspec'" in failed.detail


async def test_a_python_that_is_not_there_is_told(tmp_path: Path) -> None:
    group = fake_group(tmp_path, a={})
    workers = {"fake": WorkerSettings(python=str(tmp_path / "nowhere" / "python"))}
    async with running(group.model_copy(update={"workers": workers}), until=None) as served:
        failed = await served.until("failed", "zoo")
    assert f"there is no {tmp_path}/nowhere/python" in failed.detail
