"""An adapter's files are removed, it is evicted, and then asked for: what becomes of whom."""

from __future__ import annotations

from benchmarks.adapters.measure import Outcome
from benchmarks.adapters.player import running_player
from benchmarks.adapters.record import AS_BEFORE, Record, Removal
from benchmarks.adapters.scenes import RANK_16
from benchmarks.adapters.sessions import Workshop
from benchmarks.adapters.traffic import Ask, Traffic
from benchmarks.adapters.variants import HOST_BYTES, Variant, settings_of
from benchmarks.engines import EngineFailed
from benchmarks.progress import Steps

SLOTS = 2
GONE, KEPT, OTHER = 50, 51, 52
"""The adapter whose files go, and two that push it out of the slots."""

PATIENCE_SECONDS = 60.0
REASON_LENGTH = 160


def count_removals(workshop: Workshop) -> int:
    return sum(len(_rooms(variant)) for variant in workshop.variants)


def remove_and_ask(workshop: Workshop, record: Record, steps: Steps) -> None:
    """A fresh engine for each case: some die of it."""
    for variant in workshop.variants:
        for evicted_from in _rooms(variant):
            steps.begin(f"removed: {variant}, evicted from its {evicted_from}")
            try:
                record.removals.append(_case(workshop, variant, evicted_from))
            except EngineFailed as failed:
                record.failures[f"{variant}, files removed"] = str(failed)
            steps.done()


def _rooms(variant: Variant) -> tuple[str, ...]:
    """With host memory beyond the slots an adapter may be gone from its slot and still be there."""
    has_host = variant in (Variant.STOCK_HOST, Variant.STACKSERVE)
    return ("slot", "memory") if has_host else ("memory",)


def _case(workshop: Workshop, variant: Variant, evicted_from: str) -> Removal:
    shape, shelf = workshop.shape(RANK_16, SLOTS), workshop.shelf
    host_bytes = HOST_BYTES if evicted_from == "slot" else SLOTS * shape.adapter_bytes
    settings = settings_of(variant, str(workshop.base), shape, workshop.eager, host_bytes)
    log = workshop.logs / f"{variant}-removed-{evicted_from}.log"
    shelf.fill(RANK_16, (GONE, KEPT, OTHER))
    with running_player(settings, shelf, RANK_16, log) as player:
        player.warm_up(SLOTS, SLOTS)
        gone, kept = (player.play(_asks(number)).outcomes[0] for number in (GONE, KEPT))
        shelf.remove(RANK_16, GONE)
        player.play(_asks(KEPT, OTHER))
        now = player.play(_asks(GONE, KEPT), PATIENCE_SECONDS)
        later = player.play(_asks(KEPT), PATIENCE_SECONDS)
    return Removal(
        variant,
        evicted_from,
        answer=became(now.outcomes[0], gone),
        company=became(now.outcomes[1], kept),
        afterwards=became(later.outcomes[0], kept),
    )


def _asks(*adapters: int) -> Traffic:
    return tuple(Ask(0.0, adapter, adapter, 16, 16) for adapter in adapters)


def became(outcome: Outcome, before: Outcome) -> str:
    """In words, against the answer that the same request had before."""
    if outcome.error:
        return f"failed: {' '.join(outcome.error.split())[:REASON_LENGTH]}"
    return AS_BEFORE if outcome.tokens == before.tokens else "answered otherwise"
