"""What a benchmark with engines does around its measurement: a base, a folder, an end at any time."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from stackserve.demo.base import ensure_demo_base
from stackserve.errors import StackserveError

INTERRUPTED = 130
"""Exit code of a run that was interrupted, and has reported what it had."""


def prepare(name: str, out: Path) -> Path | None:
    """The demo base, with `out` made; None when one cannot be had, and why is printed."""
    try:
        base = ensure_demo_base()
        out.mkdir(parents=True, exist_ok=True)
    except (StackserveError, OSError) as failed:
        print(f"{name}: {failed}", file=sys.stderr)
        return None
    return base


def measure_to_end(name: str, measure: Callable[[], None]) -> bool:
    """False when it was interrupted, by Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        measure()
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the report holds what was measured", file=sys.stderr)
        return False
    return True


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
