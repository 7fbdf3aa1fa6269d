"""What an operator may set of scheduling and residency, as it comes in vLLM's `additional_config`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

SECTION = "stackserve"
GIB = 1 << 30


@dataclass(frozen=True)
class SchedulingOptions:
    """`additional_config["stackserve"]`; docs/scheduling.md tells what each is for."""

    adapters_per_batch: int | None = None
    """None: as many as there are slots."""
    starvation_seconds: float = 2.0
    min_residency_seconds: float = 0.5
    host_bytes: int = 4 * GIB
    stagers: int = 2
    """Threads that read adapters."""

    def __post_init__(self) -> None:
        if self.adapters_per_batch is not None:
            _check("adapters_per_batch", self.adapters_per_batch, int, least=1)
        _check("starvation_seconds", self.starvation_seconds, float, least=0)
        _check("min_residency_seconds", self.min_residency_seconds, float, least=0)
        _check("host_bytes", self.host_bytes, int, least=1)
        _check("stagers", self.stagers, int, least=1)

    @classmethod
    def from_config(cls, additional_config: Mapping[str, Any]) -> SchedulingOptions:
        """ValueError for an unknown option or a value that cannot be."""
        section = additional_config.get(SECTION, {})
        known = {each.name for each in fields(cls)}
        for name in section:
            if name not in known:
                raise ValueError(
                    f"{SECTION}.{name} is not an option of scheduling; there are "
                    f"{', '.join(sorted(known))}"
                )
        return cls(**section)


def _check(name: str, value: Any, kind: type, least: float) -> None:
    kinds = (int, float) if kind is float else (int,)
    right = isinstance(value, kinds) and not isinstance(value, bool)
    if not right or not math.isfinite(value) or value < least:
        noun = "an integer" if kind is int else "a number"
        raise ValueError(f"{SECTION}.{name} is {value!r}; it must be {noun}, at least {least:g}")
