"""Every touch of vLLM's internals that clean KV blocks need. See `compat`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any


def zero_blocks_on_request(schedulers: type) -> None:
    """Where there are adapters and the scheduler is one of `schedulers`: have each step's output name
    the KV blocks that it newly gave out, and workers able to zero those that are left of them.

    Touches: `vllm.v1.engine.core.get_kv_cache_configs`, `KVCacheConfig.needs_kv_cache_zeroing`, which
    scheduler and workers ask, `SchedulerConfig.get_scheduler_cls`.
    """
    from vllm.v1.engine import core
    from vllm.v1.kv_cache_interface import KVCacheConfig

    inside, needs = core.get_kv_cache_configs, KVCacheConfig.needs_kv_cache_zeroing
    if getattr(inside, "asks_scheduler", False):
        return

    def get_kv_cache_configs(vllm_config: Any, *others: Any) -> list[Any]:
        configs: list[Any] = inside(vllm_config, *others)
        scheduler = vllm_config.scheduler_config.get_scheduler_cls()
        if vllm_config.lora_config is not None and issubclass(scheduler, schedulers):
            for config in configs:
                config.zeroes_on_request = not config.needs_kv_cache_zeroing
        return configs

    get_kv_cache_configs.asks_scheduler = True  # type: ignore[attr-defined]
    core.get_kv_cache_configs = get_kv_cache_configs
    KVCacheConfig.needs_kv_cache_zeroing = property(
        lambda config: getattr(config, "zeroes_on_request", False) or needs.fget(config)
    )


def zeroes_on_request(owner: Any) -> bool:
    """Whether `zero_blocks_on_request` is in force; vLLM has all new blocks of some models zeroed.

    Touches: `Scheduler.kv_cache_config` and that of a worker's model runner.
    """
    return getattr(owner.kv_cache_config, "zeroes_on_request", False)


def blocks_of_adapters(scheduler: Any, output: Any) -> Iterator[int]:
    """The KV blocks that a step gives to requests that have an adapter, by id.

    Touches: `SchedulerOutput.scheduled_new_reqs`, `.scheduled_cached_reqs`, `Scheduler.requests`.
    """
    for new in output.scheduled_new_reqs:
        if new.lora_request is not None:
            yield from chain.from_iterable(new.block_ids)
    cached = output.scheduled_cached_reqs
    for request_id, block_ids in zip(cached.req_ids, cached.new_block_ids, strict=True):
        if block_ids is not None and scheduler.requests[request_id].lora_request is not None:
            yield from chain.from_iterable(block_ids)


def blocks_with_room(scheduler: Any, output: Any) -> set[int]:
    """The KV blocks of a step's requests that it does not fill up before it reads them, by id.

    To be called when `num_computed_tokens` counts this step. All blocks where a request's tokens are
    not written together: a drafter's layers follow another count, and parts of a batch take turns.

    Touches: `SchedulerOutput.num_scheduled_tokens`, `Request.num_computed_tokens`,
    `Scheduler.num_spec_tokens`, `.parallel_config`, `KVCacheCoordinator.single_type_managers`, and of
    each `.req_to_blocks`, `.block_size`.
    """
    parallel = scheduler.parallel_config
    in_parts = parallel.use_ubatching or parallel.prefill_context_parallel_size > 1
    with_room: set[int] = set()
    for manager in scheduler.kv_cache_manager.coordinator.single_type_managers:
        for request_id in output.num_scheduled_tokens:
            computed = scheduler.requests[request_id].num_computed_tokens
            full = 0 if in_parts or scheduler.num_spec_tokens else computed // manager.block_size
            blocks = manager.req_to_blocks.get(request_id, ())
            with_room.update(each.block_id for each in blocks[full:])
    return with_room
