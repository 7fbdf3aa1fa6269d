"""Touches of vLLM's internals on CPUs, one function each; see `compat`. Each changes nothing elsewhere."""

from __future__ import annotations

import os
import shutil
import sysconfig
from argparse import Namespace
from pathlib import Path
from typing import Any

from stackserve.engine import compat, compat_kv


def what_compiling_lacks() -> str:
    """What torch's compiler for CPUs would not find on this machine, and its remedy; "" for nothing."""
    if not (os.environ.get("CXX") or shutil.which("g++")):
        return "there is no C++ compiler (Debian and Ubuntu: apt install g++)"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python's headers are missing (Debian and Ubuntu: apt install python3-dev)"
    return ""


def compile_with_adapters_on_cpu() -> bool:
    """Let vLLM compile a model with LoRA as it compiles one without. False, and no change, elsewhere.

    vLLM runs such models eagerly on CPUs, because its own LoRA operators cannot be traced there. So do
    we where there is nothing to compile with.

    The graphs are not kept for the next start: vLLM cannot load them with the compiler that it uses on
    CPUs, and they would name layers by numbers of this process.

    Touches: `CpuPlatform.check_and_update_config`, which reads `lora_config` for this decision alone;
    the environment variable `VLLM_USE_AOT_COMPILE`.
    """
    from vllm.platforms import current_platform

    platform_class = type(current_platform)
    inside = platform_class.check_and_update_config
    if not current_platform.is_cpu() or getattr(inside, "compiles", False):
        return False

    os.environ["VLLM_USE_AOT_COMPILE"] = "0"
    missing = what_compiling_lacks()

    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        if missing:
            inside(vllm_config)
            if vllm_config.lora_config is not None:
                compat.say(f"a model with adapters is not compiled here, and slower: {missing}")
            return
        lora_config, vllm_config.lora_config = vllm_config.lora_config, None
        try:
            inside(vllm_config)
        finally:
            vllm_config.lora_config = lora_config

    check_and_update_config.compiles = True  # type: ignore[attr-defined]
    platform_class.check_and_update_config = classmethod(check_and_update_config)
    return True


ROWS_OF_ONE_ORDER = {"onednn": 2, "amx": 5}
"""From so many rows on, vLLM's products on CPUs sum each row in one order."""


def multiply_in_one_order_on_cpu() -> bool:
    """Make a linear layer's answer for a row the same bits in every batch.

    oneDNN has a kernel of its own for one row, which sums in another order. With AMX it sums bf16 in
    other orders for dozens and for hundreds of rows as well, so there our product takes its place, or
    without a compiler vLLM's packed one. Fewer rows than keep one order are filled up with zeros.
    False, and no change, on other devices. Zen CPUs take a kernel that was not tried.

    Touches: `vllm.model_executor.layers.utils.dispatch_cpu_unquantized_gemm`, which sets a layer's
    `cpu_linear` and may take its `weight` away; `.check_cpu_sgl_kernel`, which chooses the packed
    product for small layers only.
    """
    import torch
    from vllm.model_executor.layers import utils
    from vllm.platforms import current_platform

    from stackserve.engine.base_linear import AmxProduct, FilledRows
    from stackserve_kernels.lora import AmxLinear, WeightMemory

    inside, small = utils.dispatch_cpu_unquantized_gemm, utils.check_cpu_sgl_kernel
    if not current_platform.is_cpu() or getattr(inside, "keeps_one_order", False):
        return False
    amx = torch.cpu._is_amx_tile_supported()
    rows = ROWS_OF_ONE_ORDER["amx" if amx else "onednn"]
    memory = WeightMemory()

    def dispatch(layer: Any, remove_weight: bool) -> None:
        weight = layer.weight
        if weight.ndim == 2 and not weight.is_meta and AmxLinear.serves(weight):
            layer.cpu_linear = AmxProduct(weight.detach(), memory)
            if remove_weight:
                layer.weight = torch.nn.Parameter(weight.new_empty(0), requires_grad=False)
            return
        inside(layer, remove_weight)
        if "cpu_linear" in layer.__dict__:
            layer.cpu_linear = FilledRows(layer, weight.shape[0], rows)

    def any_size(n: int, k: int, dtype: Any) -> bool:
        bf16 = amx and dtype == torch.bfloat16 and k % 32 == 0 and n % 16 == 0
        return bf16 or small(n, k, dtype)

    dispatch.keeps_one_order = True  # type: ignore[attr-defined]
    utils.dispatch_cpu_unquantized_gemm = dispatch
    utils.check_cpu_sgl_kernel = any_size
    return True


def sum_attention_in_one_order_on_cpu() -> bool:
    """Let attention over a long context not be split in parts whose number depends on the batch.

    An operator's own setting of the variable wins. False, and no change, on other devices.

    Touches: the environment variable `VLLM_CPU_ATTN_SPLIT_KV`, read when a step's metadata is made.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return False
    os.environ.setdefault("VLLM_CPU_ATTN_SPLIT_KV", "0")
    return True


def bound_kv_cache_on_cpu(arguments: Namespace, size: int) -> None:
    """Give the KV cache `size` bytes on a CPU where no option says how many.

    vLLM would take nine tenths of the machine's memory. Touches: `kv_cache_memory_bytes`.
    """
    from vllm.platforms import current_platform

    if current_platform.is_cpu() and arguments.kv_cache_memory_bytes is None:
        arguments.kv_cache_memory_bytes = size


def zero_blocks_of_every_layer_on_cpu() -> bool:
    """Zero KV blocks in layers of every kind, and of their values alone where that is enough.

    vLLM's own leaves layers with a sliding window out. Attention on CPUs replaces the scores of what
    it masks, whatever the keys are, but multiplies the values by zero. Groups of layers lie on the same
    memory in ways of their own, so with several of them keys are zeroed too. Models of which vLLM
    wants all new blocks zeroed keep vLLM's way. False, and no change, on other devices.

    Touches: `CPUModelRunner._zero_block_ids`, `.kv_cache_config`.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return False
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    inside = CPUModelRunner._zero_block_ids
    if getattr(inside, "knows_every_layer", False):
        return True

    def zero_block_ids(runner: Any, block_ids: list[int]) -> None:
        import torch

        if not compat_kv.zeroes_on_request(runner):
            inside(runner, block_ids)
            return
        if not hasattr(runner, "zeroed_parts"):
            runner.zeroed_parts = _zeroed_parts(runner)
        blocks = torch.tensor(block_ids)
        for part in runner.zeroed_parts:
            part.index_fill_(0, blocks, 0)

    zero_block_ids.knows_every_layer = True  # type: ignore[attr-defined]
    CPUModelRunner._zero_block_ids = zero_block_ids
    return True


def _zeroed_parts(runner: Any) -> list[Any]:
    """Of each layer's KV cache, a view whose first dimension is the block, in words of eight bytes.

    Touches: `CPUModelRunner.kv_cache_config`, `.compilation_config.static_forward_context`, `kv_cache`
    of a layer: [blocks, heads, block size, 2 · head size], of each head first all keys, then all values.
    """
    import torch

    config, layers = runner.kv_cache_config, runner.compilation_config.static_forward_context
    widest: dict[int, Any] = {}
    for name in (name for group in config.kv_cache_groups for name in group.layer_names):
        cache = layers[name].kv_cache if name in layers else None
        if isinstance(cache, torch.Tensor):
            seen = widest.get(cache.data_ptr())
            widest[cache.data_ptr()] = cache if seen is None or seen.nbytes < cache.nbytes else seen
    values_suffice = len(config.kv_cache_groups) == 1
    parts = []
    for cache in widest.values():
        words = cache.view(torch.int64)
        if values_suffice and cache.dim() == 4:
            words = words.view(*words.shape[:2], 2, -1)[:, :, 1]
        parts.append(words.unflatten(0, (config.num_blocks, -1)))
    return parts
