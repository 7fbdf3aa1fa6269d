"""What a path in a configuration file means: a folder, or a part of the demo."""

from __future__ import annotations

from pathlib import Path

from stackserve.configfile import resolve_path
from stackserve.demo.base import demo_base_path
from stackserve.demo.behaviours import behaviour
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
        return demo_base_path()
    return behaviour(written.removeprefix(DEMO)).adapter
