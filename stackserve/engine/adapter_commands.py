"""What the worker may ask the scheduler about adapters, between two steps of the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from stackserve import protocol
from stackserve.engine import compat_adapters as compat
from stackserve.engine.tiers import Adapter, Tier
from stackserve.protocol import key_of

if TYPE_CHECKING:
    from stackserve.engine.scheduler import AdapterScheduler


def answer(scheduler: AdapterScheduler, operation: str, arguments: Mapping[str, Any]) -> Any:
    """Do one of `OPERATIONS`; moves of adapters that it makes possible are made at once.

    Raises ValueError for what nobody may ask.
    """
    scheduler.tick()
    result = OPERATIONS[operation](scheduler, **arguments)
    if operation not in LOOKS:
        scheduler.move_adapters()
    return result


def _add(
    scheduler: AdapterScheduler,
    *,
    source: Any,
    weight: float = 1.0,
    load: bool = True,
    displace: bool = True,
) -> bool:
    """Know an adapter by what vLLM calls it, a LoRARequest or its (name, id, folder)."""
    if isinstance(source, list | tuple):
        source = compat.lora_request(*source[:3])
    compat.check_request(source)
    residency, number = scheduler.residency, source.lora_int_id
    residency.register(
        number, source.lora_name, source, scheduler.now, load=load, displace=displace
    )
    scheduler.shares.set_weight(key_of(source.lora_name), weight)
    return True


def _remove(scheduler: AdapterScheduler, *, id: int) -> bool:
    """Forget an adapter when its requests are done. False when it is unknown."""
    if scheduler.residency.get(id) is None:
        return False
    scheduler.residency.remove(id, scheduler.now)
    return True


def _pin(scheduler: AdapterScheduler, *, id: int) -> str | None:
    """Keep an adapter on the device; why that cannot be, else None."""
    try:
        scheduler.residency.pin(id, scheduler.now)
    except ValueError as error:
        return str(error)
    return None


def _unpin(scheduler: AdapterScheduler, *, id: int) -> None:
    scheduler.residency.unpin(id)


def _list(scheduler: AdapterScheduler) -> set[int]:
    """The adapters in memory."""
    return {each.id for each in scheduler.residency if each.tier in (Tier.HOST, Tier.DEVICE)}


def _look(scheduler: AdapterScheduler, *, ids: list[int]) -> dict[str, list[Any]]:
    """By id: whether an adapter is still to be read, and why it could not be the last time."""
    residency = scheduler.residency
    known = ((each, residency.get(each)) for each in ids)
    return {str(i): [residency.is_coming(i), each.error] for i, each in known if each}


def _snapshot(scheduler: AdapterScheduler) -> bytes:
    """An `AdaptersSnapshot` as JSON."""
    return msgspec.json.encode(scheduler.meters.snapshot(_facts(scheduler)))


def _facts(scheduler: AdapterScheduler) -> protocol.ResidencyFacts:
    residency = scheduler.residency
    base_running = sum(1 for each in scheduler.running if each.lora_request is None)
    return protocol.ResidencyFacts(
        slots=len(residency.slots),
        host_bytes=residency.memory.used,
        host_limit=residency.memory.limit,
        adapters=tuple(_fact(each) for each in residency if each.is_used or each.tier != Tier.DISK),
        base_key=scheduler.base_key,
        base_running=base_running,
        base_waiting=len(scheduler.waiting.of_base()),
    )


def _fact(adapter: Adapter) -> protocol.AdapterFacts:
    return protocol.AdapterFacts(
        key=adapter.key,
        tier=adapter.tier.value,
        num_bytes=adapter.num_bytes,
        running=adapter.running,
        waiting=adapter.waiting,
        pinned=adapter.pinned,
        draining=adapter.draining,
    )


OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "add": _add,
    "remove": _remove,
    "pin": _pin,
    "unpin": _unpin,
    "list": _list,
    "look": _look,
    "snapshot": _snapshot,
}
LOOKS = frozenset({"list", "snapshot"})
"""Change nothing. `look` is asked until something has come, so it must let things come."""
