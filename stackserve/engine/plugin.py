"""The vLLM plug-in: vLLM calls `register` in each of its processes (entry point vllm.general_plugins).

It holds for plain `vllm.LLM(...)` too. Turn it off with vLLM's own `VLLM_PLUGINS=`.
"""

from __future__ import annotations

import logging

from stackserve.engine import compat

logger = logging.getLogger(__name__)

PUNICA_WRAPPER = "stackserve.engine.lora.GroupedPunicaWrapper"


def register() -> None:
    """Put exact LoRA for mixed batches in the place of vLLM's CPU operators. Safe to call again."""
    compat.warn_if_untried()
    if compat.use_punica_wrapper_on_cpu(PUNICA_WRAPPER):
        logger.info("stackserve: exact grouped LoRA on CPU")
