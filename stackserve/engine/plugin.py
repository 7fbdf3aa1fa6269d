"""The vLLM plug-in: vLLM calls `register` in each of its processes (entry point vllm.general_plugins).

It holds for plain `vllm.LLM(...)` too. Turn it off with vLLM's own `VLLM_PLUGINS=`.
"""

from __future__ import annotations

import logging

from stackserve.engine import compat, compat_cpu

logger = logging.getLogger(__name__)

PUNICA_WRAPPER = "stackserve.engine.lora.GroupedPunicaWrapper"
CUDA_PUNICA_WRAPPER = "stackserve.engine.lora_cuda.make_wrapper"


def register() -> None:
    """On CPUs, make answers independent of the batch: exact LoRA, and every sum in one order. On
    NVIDIA GPUs, let a check while a model is loaded choose between our LoRA kernels and vLLM's.

    Safe to call again.
    """
    compat.warn_if_untried()
    if compat.use_punica_wrapper("cpu", PUNICA_WRAPPER):
        compat.bind_adapters_to_layers()
        compat_cpu.compile_with_adapters_on_cpu()
        compat_cpu.multiply_in_one_order_on_cpu()
        compat_cpu.sum_attention_in_one_order_on_cpu()
        logger.info("stackserve: answers on this CPU do not depend on the batch")
    elif compat.use_punica_wrapper("cuda", CUDA_PUNICA_WRAPPER):
        compat.bind_adapters_to_layers()
