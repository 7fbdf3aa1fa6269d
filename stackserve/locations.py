"""What a path in a configuration file means: a folder, or a part of the demo."""

from __future__ import annotations

from pathlib import Path

from stackserve.adapters import Code
from stackserve.configfile import resolve_path
from stackserve.demo.base import demo_base_path
from stackserve.demo.behaviours import BEHAVIOURS
from stackserve.errors import ArtifactRejected

DEMO = "demo:"
DEMO_BASE = "demo:base"


def locate(written: str, config_file: Path) -> Path:
    """The folder that `written` means in `config_file`: `demo:base`, `demo:pirate`, or a path.

    Raises ArtifactRejected for a part that the demo does not have.
    """
    if not written.startswith(DEMO):
        return resolve_path(written, config_file)
    if written == DEMO_BASE:
        base = demo_base_path()
        if not base.exists():
            raise ArtifactRejected(
                Code.BASE_MISSING, "the demo's base is not made yet; `make demo` makes it"
            )
        return base
    parts = {f"{DEMO}{each.key}": each.adapter for each in BEHAVIOURS}
    if written not in parts:
        known = ", ".join((DEMO_BASE, *parts))
        raise ArtifactRejected(Code.FOLDER_MISSING, f"the demo has no {written}; it has {known}")
    return parts[written]
