"""Where stackserve keeps what it makes: caches that can be made again, data that cannot, and logs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """`$STACKSERVE_CACHE`, else `$XDG_CACHE_HOME/stackserve`, else `~/.cache/stackserve`."""
    if chosen := os.environ.get("STACKSERVE_CACHE"):
        return Path(chosen).expanduser().absolute()
    return _xdg("XDG_CACHE_HOME", ".cache")


def adapter_store_root() -> Path:
    """The adapter store: read-only copies named by their digest."""
    return cache_root() / "adapters"


def data_root() -> Path:
    """`$STACKSERVE_DATA`, else `$XDG_DATA_HOME/stackserve`, else `~/.local/share/stackserve`: what
    cannot be made again.
    """
    if chosen := os.environ.get("STACKSERVE_DATA"):
        return Path(chosen).expanduser().absolute()
    return _xdg("XDG_DATA_HOME", ".local/share")


def log_root() -> Path:
    """`$XDG_STATE_HOME/stackserve/log`, else `~/.local/state/stackserve/log`."""
    return _xdg("XDG_STATE_HOME", ".local/state") / "log"


def _xdg(variable: str, default: str) -> Path:
    chosen = os.environ.get(variable)
    root = Path(chosen).expanduser() if chosen else Path.home() / default
    return root.absolute() / "stackserve"
