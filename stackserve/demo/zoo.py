"""Makes the models of configs/heterogeneous.yaml once, in the user's cache folder, and prints a file to serve.

    python -m stackserve.demo.zoo

That file is configs/heterogeneous.yaml and one group more, of 500 tenants with a tiny model each. What is
there already is kept; delete the folder to make everything again.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from stackserve.demo.configs import packaged_config
from stackserve.demo.flowers import FLOWERS, write_tenant
from stackserve.demo.progress import Report, console_report
from stackserve.errors import ConfigError, StackserveError
from stackserve.files import locked, remove, sync
from stackserve.folders import cache_root

TENANTS = 500
CONFIG = "zoo.yaml"
UNAVAILABLE = "zoo_unavailable"

_PLACE = "~/.cache/stackserve/zoo/"
"""How configs/heterogeneous.yaml begins a path."""
_WORK = ".work-"
_NEEDED = ("lightgbm", "onnx", "safetensors", "sklearn", "skops", "torch", "xgboost")
_TENANTS = """
  # One small model for each tenant, and memory for about 20 of them: what was not asked for longest makes
  # room for what is asked now.
  - name: tenants
    kind: homogeneous
    runtime: onnx
    memory_mib: 6
    members:
"""


def zoo_path() -> Path:
    """Where the models are or will be; nothing is made."""
    return cache_root() / "zoo"


def ensure_zoo(
    root: Path | None = None, progress: Report | None = None, *, tenants: int = TENANTS
) -> Path:
    """Return the configuration file of the zoo; make what is missing of its models first.

    Without `progress` a bar is drawn on standard error. Raises `ConfigError` with the remedy.
    """
    root = root or zoo_path()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / ".lock", fcntl.LOCK_EX):
            for left_behind in root.glob(f"{_WORK}*"):
                remove(left_behind)
            missing = [name for name in ("flowers", "tenants") if not (root / name).exists()]
            if missing:
                _check_libraries()
                with nullcontext(progress) if progress else console_report() as report:
                    _make(root, missing, report, tenants)
            return _write_config(root)
    except OSError as failed:
        raise ConfigError(
            f"the models could not be written to {root}: {failed.strerror or failed}; set"
            " STACKSERVE_CACHE to a folder that can be written to",
            code=UNAVAILABLE,
        ) from failed


def _make(root: Path, missing: list[str], report: Report, tenants: int) -> None:
    if "flowers" in missing:
        stage = "Training a model of flowers with each framework"
        _write_folders(root / "flowers", FLOWERS, stage, report)
    if "tenants" in missing:
        writers = {f"t{n:03}": partial(write_tenant, seed=n) for n in range(tenants)}
        _write_folders(root / "tenants", writers, f"Training {tenants} models of tenants", report)


def _write_folders(
    target: Path, writers: Mapping[str, Callable[[Path], None]], stage: str, report: Report
) -> None:
    """Have a folder written by each writer; all of them appear below `target` in one rename."""
    report(stage, 0.0)
    with tempfile.TemporaryDirectory(prefix=_WORK, dir=target.parent) as work:
        fresh = Path(work) / target.name
        for done, (name, write) in enumerate(writers.items(), 1):
            (fresh / name).mkdir(parents=True)
            write(fresh / name)
            report(stage, done / len(writers))
        for path in (*fresh.rglob("*"), fresh):
            sync(path)
        fresh.rename(target)
    sync(target.parent)


def _write_config(root: Path) -> Path:
    """Its paths are relative, since it lies beside the models."""
    shown = packaged_config("heterogeneous.yaml").read_text("utf-8").replace(_PLACE, "")
    keys = sorted(path.name for path in (root / "tenants").iterdir())
    lines = [f"      - {{ key: {key}, path: tenants/{key} }}\n" for key in keys]
    fresh = root / f"{_WORK}{os.getpid()}"
    fresh.write_text(shown + _TENANTS + "".join(lines), "utf-8")
    sync(fresh)
    return fresh.replace(root / CONFIG)


def _check_libraries() -> None:
    """Refuse early, in one sentence, where a library that trains is not installed."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the models are trained with {', '.join(_NEEDED)}; this environment lacks"
            f" {', '.join(missing)}: in a clone, python3.11 requirements/install.py --runtimes",
            code=UNAVAILABLE,
        )


def main() -> int:
    """Make the models and print the file that serves them."""
    try:
        print(ensure_zoo())
    except StackserveError as failed:
        print(f"error: {failed.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
