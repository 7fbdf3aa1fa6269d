"""Who is compared: one engine with the same options, with and without what is ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from benchmarks.engines import EngineSettings
from stackserve.protocol import SCHEDULER

OPTIONS: dict[str, Any] = {"starvation_seconds": 2.0, "min_residency_seconds": 0.5, "stagers": 2}
HOST_BYTES = 2**30
"""Host memory for adapters beyond the slots: ours always, stock vLLM's as `stock-host`."""


class Variant(StrEnum):
    """In the order of the tables; the first is what others are held against."""

    STOCK = "stock"
    STOCK_HOST = "stock-host"
    KERNELS = "kernels"
    STACKSERVE = "stackserve"

    @property
    def meaning(self) -> str:
        return MEANINGS[self]

    @property
    def has_kernels(self) -> bool:
        return self in (Variant.KERNELS, Variant.STACKSERVE)


MEANINGS = {
    Variant.STOCK: "vLLM, no plug-in",
    Variant.STOCK_HOST: f"the same with max_cpu_loras for {HOST_BYTES // 2**20} MiB of adapters",
    Variant.KERNELS: "stackserve's kernels, vLLM's scheduler and residency",
    Variant.STACKSERVE: "stackserve's kernels, scheduler and residency",
}
DEFAULT = (Variant.STOCK, Variant.KERNELS, Variant.STACKSERVE)

NOT_COMPILED = (
    "On CPUs stock vLLM does not compile a model with LoRA, whatever it is asked; kernels and stackserve"
    " are compiled. What that gains is in `kernels`, not in the scheduler."
)


@dataclass(frozen=True)
class Shape:
    """What adapters need of an engine: `slots` of `slot_rank`, and how large an adapter is about."""

    slots: int
    slot_rank: int
    adapter_bytes: int

    def title(self) -> str:
        return f"{self.slots} slots of rank {self.slot_rank}"


@dataclass(frozen=True)
class StreamSettings(EngineSettings):
    """Settings of `benchmarks.adapters.child`. `max_cpu_loras` 0 leaves vLLM its default."""

    scheduler: str | None = None
    max_cpu_loras: int = 0
    additional: dict[str, Any] = field(default_factory=dict)


def settings_of(
    variant: Variant, model: str, shape: Shape, eager: bool, host_bytes: int = HOST_BYTES
) -> StreamSettings:
    """The same for all but for what the variant's meaning says."""
    ours = variant is Variant.STACKSERVE
    kept = max(shape.slots, host_bytes // shape.adapter_bytes)
    return StreamSettings(
        model,
        plugin=variant.has_kernels,
        slots=shape.slots,
        slot_rank=shape.slot_rank,
        eager=eager,
        scheduler=SCHEDULER if ours else None,
        max_cpu_loras=kept if variant is Variant.STOCK_HOST else 0,
        additional={"stackserve": OPTIONS | {"host_bytes": host_bytes}} if ours else {},
    )
