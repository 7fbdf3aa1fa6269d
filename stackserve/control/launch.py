"""From a group to what its engine worker is told: vLLM's options and the adapters' names inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackserve.control.groups import Member, StackedGroup
from stackserve.engine_settings import EngineSettings
from stackserve.protocol import SCHEDULER, AdapterSpec, WorkerSpec
from stackserve.settings import LORA_RANKS
from stackserve.types import Target

GIB = 2**30
MOST_PRELOADED = 64
"""Adapters that are loaded before a worker is ready; the rest load at their first request."""


def targets_of(group: StackedGroup) -> tuple[Target, ...]:
    """What the group serves: the base first, then its members as configured."""
    base = group.settings.base
    return (
        Target(
            group=group.name,
            version=group.version,
            key=base.key,
            model_id=group.base_model_id,
            worker_model=base.key,
            adapter_sha256=None,
            parent=None,
        ),
        *(
            Target(
                group=group.name,
                version=group.version,
                key=member.key,
                model_id=member.model_id,
                worker_model=f"{member.key}@{member.adapter.digest}",
                adapter_sha256=member.adapter.digest,
                parent=base.key,
            )
            for member in group.members
        ),
    )


def worker_spec(
    group: StackedGroup, options: dict[str, Any], socket: Path, events_fd: int
) -> WorkerSpec:
    """The spec of a worker that serves `group` on `socket`, with the options of its engine."""
    adapters = adapter_specs(group)
    return WorkerSpec(
        socket=str(socket),
        events_fd=events_fd,
        adapters=adapters,
        preload=min(len(adapters), MOST_PRELOADED),
        options=options,
    )


def adapter_specs(group: StackedGroup) -> tuple[AdapterSpec, ...]:
    """The group's members as a worker knows them."""
    _, *adapters = targets_of(group)
    return tuple(map(adapter_spec, adapters, group.members))


def adapter_spec(target: Target, member: Member) -> AdapterSpec:
    """How a worker knows one of a group's members."""
    return AdapterSpec(
        key=target.key,
        worker_model=target.worker_model,
        folder=str(member.adapter.folder),
        weight=member.share,
        pinned=member.pinned,
    )


def engine_options(group: StackedGroup) -> dict[str, Any]:
    """The options of the group's engine by name; None is "not given"."""
    if group.settings.engine.runtime == "transformers":
        return _transformers_options(group)
    return _vllm_options(group)


def _transformers_options(group: StackedGroup) -> dict[str, Any]:
    """It takes adapters at any time, so it has a slot for them in any case."""
    engine = group.settings.engine
    return {
        "model": str(group.base_folder),
        "served_model_name": group.settings.base.key,
        "dtype": engine.dtype,
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_num_seqs,
        "seed": engine.seed,
        "adapter_slots": max(group.settings.adapter_slots, 1),
    }


def _vllm_options(group: StackedGroup) -> dict[str, Any]:
    """vLLM's names; `vllm_args` come last and win."""
    engine = group.settings.engine
    return {
        "model": str(group.base_folder),
        "served_model_name": group.settings.base.key,
        "dtype": engine.dtype,
        "runner": engine.runner,
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_num_seqs,
        "max_num_batched_tokens": engine.max_num_batched_tokens,
        "kv_cache_memory_bytes": int(engine.kv_cache_gib * GIB) if engine.kv_cache_gib else None,
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "enable_prefix_caching": engine.prefix_caching,
        "enforce_eager": engine.enforce_eager or None,
        "seed": engine.seed,
        "disable_fastapi_docs": True,
        "scheduler_cls": SCHEDULER,
        "additional_config": {"stackserve": _scheduling_options(engine)},
        **_lora_options(group),
        **_tool_options(engine),
        **engine.vllm_args,
    }


@dataclass(frozen=True)
class AdapterRoom:
    """What an engine's adapter slots hold; it is given memory for them once, when it starts."""

    slots: int
    rank: int


ANY_RANK = 2**31
"""Of slots that are as large as what is in them."""


def room_of(options: Mapping[str, Any]) -> AdapterRoom | None:
    """The room that an engine with such options has; None when it takes no adapters."""
    by_name = {name.replace("-", "_"): value for name, value in options.items()}
    if "adapter_slots" in by_name:
        return AdapterRoom(by_name["adapter_slots"], ANY_RANK)
    if not by_name.get("enable_lora"):
        return None
    return AdapterRoom(int(by_name["max_loras"]), int(by_name["max_lora_rank"]))


def _lora_options(group: StackedGroup) -> dict[str, Any]:
    if not group.members:
        return {}
    return {
        "enable_lora": True,
        "max_loras": group.settings.adapter_slots,
        "max_lora_rank": _slot_rank(group),
    }


def _slot_rank(group: StackedGroup) -> int:
    if group.settings.engine.max_rank != "auto":
        return group.settings.engine.max_rank
    largest = max(member.adapter.rank for member in group.members)
    return next(rank for rank in LORA_RANKS if rank >= largest)


def _scheduling_options(engine: EngineSettings) -> dict[str, Any]:
    """What the scheduler in the engine's process is told."""
    return {
        "adapters_per_batch": engine.adapters_per_batch,
        "starvation_seconds": engine.starvation_seconds,
        "min_residency_seconds": engine.min_residency_seconds,
        "host_bytes": int(engine.adapter_memory_gib * GIB),
        "stagers": engine.adapter_threads,
    }


def _tool_options(engine: EngineSettings) -> dict[str, Any]:
    if engine.tool_call_parser is None:
        return {}
    return {"enable_auto_tool_choice": True, "tool_call_parser": engine.tool_call_parser}
