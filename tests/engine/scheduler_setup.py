"""The schedulers that are checked, made as vLLM's engine makes its own; no model, no network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vllm.config import (
    CacheConfig,
    DeviceConfig,
    LoRAConfig,
    ModelConfig,
    SchedulerConfig,
    VllmConfig,
)
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import init_none_hash
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.request import Request

from stackserve.engine.adapter_host import MemoryHost


@dataclass(frozen=True)
class Settings:
    """What differs among checks. All `blocks` can be used; lengths are in tokens."""

    slots: int = 2
    """0: an engine without adapters."""
    seats: int = 8
    step_tokens: int = 64
    blocks: int = 64
    block_size: int = 4
    model_len: int = 64
    policy: str = "fcfs"
    prefix_caching: bool = True
    chunked_prefill: bool = True
    long_prefill: int = 0
    in_flight: int = 1
    """2: a step is scheduled before the output of the last one is known, as vLLM does on GPUs."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `SchedulingOptions`; vLLM's own scheduler knows none."""

    @property
    def adapters_per_step(self) -> int:
        return min(self.slots, self.options.get("adapters_per_batch") or self.slots)


class Clock:
    """Seconds, as far as somebody moved it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Grammars:
    """Stands in for vLLM's structured output: a grammar is a future that a check completes."""

    def __init__(self) -> None:
        self.masked: list[str] = []
        """Requests whose next token was constrained, by step."""

    def grammar_bitmask(self, requests: Any, ids: list[str], drafts: Any) -> np.ndarray:
        self.masked += ids
        return np.zeros((len(ids), 1), np.int32)

    def accept_tokens(self, request: Request, tokens: list[int]) -> bool:
        if request.structured_output_request is None:
            return True
        return request.structured_output_request.grammar.accept(tokens)


Make = Callable[[dict[str, Any], Clock], tuple[Any, MemoryHost | None]]
"""Makes a scheduler from what vLLM passes its own, and the host of its adapters if it has one."""


def vllm_scheduler(arguments: dict[str, Any], clock: Clock) -> tuple[Any, None]:
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler

    return AsyncScheduler(**arguments), None


def stackserve_scheduler(arguments: dict[str, Any], clock: Clock) -> tuple[Any, MemoryHost]:
    from stackserve.engine.scheduler import AdapterScheduler

    host = MemoryHost()
    return AdapterScheduler(**arguments, host=host, clock=clock), host


MAKE: dict[str, Make] = {"vllm": vllm_scheduler, "stackserve": stackserve_scheduler}


@cache
def model_config(base: Path, model_len: int) -> ModelConfig:
    return ModelConfig(model=str(base), skip_tokenizer_init=True, max_model_len=model_len)


def scheduler_arguments(base: Path, settings: Settings, grammars: Grammars) -> dict[str, Any]:
    """What vLLM's EngineCore passes to a scheduler."""
    init_none_hash(sha256)
    config = VllmConfig(
        model_config=model_config(base, settings.model_len),
        cache_config=CacheConfig(
            block_size=settings.block_size, enable_prefix_caching=settings.prefix_caching
        ),
        scheduler_config=SchedulerConfig(
            max_num_seqs=settings.seats,
            max_num_batched_tokens=settings.step_tokens,
            max_model_len=settings.model_len,
            is_encoder_decoder=False,
            enable_chunked_prefill=settings.chunked_prefill,
            long_prefill_token_threshold=settings.long_prefill,
            policy=settings.policy,
        ),
        lora_config=LoRAConfig(max_loras=settings.slots, max_lora_rank=8)
        if settings.slots
        else None,
        device_config=DeviceConfig("cpu"),
        additional_config={"stackserve": dict(settings.options)},
    )
    config.scheduler_config.async_scheduling = settings.in_flight > 1
    config.cache_config.num_gpu_blocks = settings.blocks + 1  # vLLM keeps one empty
    attention = FullAttentionSpec(
        block_size=settings.block_size, num_kv_heads=1, head_size=4, dtype=torch.float32
    )
    return {
        "vllm_config": config,
        "kv_cache_config": KVCacheConfig(
            settings.blocks + 1, [], [KVCacheGroupSpec(["layer"], attention)]
        ),
        "structured_output_manager": grammars,
        "block_size": settings.block_size,
        "hash_block_size": settings.block_size,
        "log_stats": True,
    }
