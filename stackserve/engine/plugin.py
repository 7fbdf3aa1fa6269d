"""The vLLM plug-in: vLLM calls `register` in each of its processes (entry point vllm.general_plugins).

It holds for plain `vllm.LLM(...)` too. Turn it off with vLLM's own `VLLM_PLUGINS=`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from stackserve.engine import compat, compat_adapters, compat_cpu, compat_kv
from stackserve.engine.kv_hygiene import CleanBlocks
from stackserve.protocol import SCHEDULER

logger = logging.getLogger(__name__)

PUNICA_WRAPPER = "stackserve.engine.lora.GroupedPunicaWrapper"
CUDA_PUNICA_WRAPPER = "stackserve.engine.lora_cuda.make_wrapper"
SLOT_MANAGER = "stackserve.engine.adapter_slots.SlotManager"


def register() -> None:
    """On CPUs, make answers independent of the batch: exact LoRA, and every sum in one order. On
    NVIDIA GPUs, let a check while a model is loaded choose between our LoRA kernels and vLLM's.

    Safe to call again.
    """
    compat.warn_if_untried()
    _let_our_scheduler_work()
    if compat.use_punica_wrapper("cpu", PUNICA_WRAPPER):
        compat.bind_adapters_to_layers()
        compat_cpu.compile_with_adapters_on_cpu()
        compat_cpu.multiply_in_one_order_on_cpu()
        compat_cpu.sum_attention_in_one_order_on_cpu()
        compat_cpu.zero_blocks_of_every_layer_on_cpu()
        logger.info("stackserve: answers on this CPU do not depend on the batch")
    elif compat.use_punica_wrapper("cuda", CUDA_PUNICA_WRAPPER):
        compat.bind_adapters_to_layers()


def _let_our_scheduler_work() -> None:
    """What an engine needs whose `scheduler_cls` is ours; it changes nothing for others."""
    compat_adapters.remember_executors()
    compat_adapters.use_slot_manager(SCHEDULER, SLOT_MANAGER)
    compat_adapters.answer_for_adapters(_answer)
    compat_adapters.raise_adapter_failures()
    compat_kv.zero_blocks_on_request(CleanBlocks)


def _answer(scheduler: Any, operation: str, arguments: Mapping[str, Any]) -> Any:
    from stackserve.engine.adapter_commands import answer  # imports the scheduler

    return answer(scheduler, operation, arguments)
