"""A pickle that shows whether it was read."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Payload:
    """Creates a file when it is read with pickle."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)
