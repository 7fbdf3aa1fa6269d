"""Every touch of vLLM's internals, one function each. Tried on the versions in `TRIED`.

vLLM promises none of these names. When a new version moves one, this is the file to mend.
"""

from __future__ import annotations

import json
import logging
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

TRIED = ("0.32.0",)

logger = logging.getLogger(__name__)


def warn_if_untried() -> None:
    """Log a warning when this vLLM is not one that stackserve was tried on."""
    import vllm

    release = vllm.__version__.split("+")[0]
    if release not in TRIED:
        logger.warning("stackserve was tried on vLLM %s, not %s", ", ".join(TRIED), release)


def use_punica_wrapper_on_cpu(qualified_name: str) -> bool:
    """Make vLLM apply LoRA through the named class on CPUs. False, and no change, on other devices.

    Touches: `vllm.platforms.current_platform.get_punica_wrapper`, a class method that returns a name.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return False
    platform_class = type(current_platform)
    platform_class.get_punica_wrapper = classmethod(lambda cls: qualified_name)
    return True


def compute_single_rows_as_pairs_on_cpu() -> bool:
    """Make a linear layer's answer for one row the same bits as for that row in a batch.

    oneDNN has a kernel of its own for one row, which sums in another order; from two rows on a row's
    bits do not depend on the others. False, and no change, on other devices.

    Touches: `vllm._custom_ops.onednn_mm`, which unquantized linear layers call on x86 CPUs. vLLM takes
    other kernels for small layers on CPUs with AMX and on Zen; those were not tried.
    """
    from vllm import _custom_ops
    from vllm.platforms import current_platform

    inside = _custom_ops.onednn_mm
    if not current_platform.is_cpu() or getattr(inside, "takes_pairs", False):
        return False

    def onednn_mm(handler: Any, x: Any, bias: Any) -> Any:
        if x.numel() != handler.k:
            return inside(handler, x, bias)
        pair = inside(handler, x.reshape(1, handler.k).repeat(2, 1), bias)
        return pair[:1].reshape(*x.shape[:-1], handler.n)

    onednn_mm.takes_pairs = True  # type: ignore[attr-defined]
    _custom_ops.onednn_mm = onednn_mm
    return True


MIN_ROWS_OF_BRGEMM = 5
"""From this many rows on vLLM's packed AMX kernel takes one path, whose sums do not depend on the rows."""


def multiply_in_one_order_on_amx() -> bool:
    """Make a bf16 linear layer on a CPU with AMX sum in one order, whatever the number of rows.

    oneDNN splits the sum in parts there, differently for a few, for dozens and for thousands of rows.
    vLLM's own packed kernel does not, from five rows on; fewer are filled up. False, and no change, on
    other CPUs and devices.

    Touches: `vllm.model_executor.layers.utils.check_cpu_sgl_kernel`, which chooses that kernel for small
    layers only, and `vllm._custom_ops.weight_packed_linear_cpu`.
    """
    import torch
    from vllm import _custom_ops
    from vllm.model_executor.layers import utils
    from vllm.platforms import current_platform

    inside = _custom_ops.weight_packed_linear_cpu
    if not current_platform.is_cpu() or not torch.cpu._is_amx_tile_supported():
        return False
    if getattr(inside, "fills_up", False):
        return True
    small = utils.check_cpu_sgl_kernel

    def any_size(n: int, k: int, dtype: Any) -> bool:
        return small(n, k, dtype) or (dtype == torch.bfloat16 and k % 32 == 0 and n % 16 == 0)

    def weight_packed_linear_cpu(x: Any, weight: Any, n: int, bias: Any) -> Any:
        rows = x.numel() // x.shape[-1]
        if rows >= MIN_ROWS_OF_BRGEMM:
            return inside(x, weight, n, bias)
        filled = x.new_zeros(MIN_ROWS_OF_BRGEMM, x.shape[-1])
        filled[:rows] = x.reshape(rows, -1)
        return inside(filled, weight, n, bias)[:rows].reshape(*x.shape[:-1], n)

    weight_packed_linear_cpu.fills_up = True  # type: ignore[attr-defined]
    _custom_ops.weight_packed_linear_cpu = weight_packed_linear_cpu
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


def parse_engine_options(options: Mapping[str, Any]) -> Namespace:
    """vLLM's server arguments from options by name; vLLM checks names and values (exit code 2).

    Touches: `vllm.entrypoints.launchers.cli_args.make_arg_parser`, `FlexibleArgumentParser`.
    """
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser(prog="engine options"))
    arguments: Namespace = parser.parse_args(list(_as_flags(options)))
    validate_parsed_serve_args(arguments)
    return arguments


def bound_kv_cache_on_cpu(arguments: Namespace, size: int) -> None:
    """Give the KV cache `size` bytes on a CPU where no option says how many.

    vLLM would take nine tenths of the machine's memory. Touches: `kv_cache_memory_bytes`.
    """
    from vllm.platforms import current_platform

    if current_platform.is_cpu() and arguments.kv_cache_memory_bytes is None:
        arguments.kv_cache_memory_bytes = size


def _as_flags(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        flag = name.replace("_", "-")
        if value is True:
            yield f"--{flag}"
        elif value is False:
            yield f"--no-{flag}"
        elif isinstance(value, list | tuple):
            yield from (f"--{flag}", *map(str, value))
        elif isinstance(value, dict):
            yield f"--{flag}={json.dumps(value)}"
        elif value is not None:
            yield f"--{flag}={value}"


def open_engine(arguments: Namespace) -> AbstractAsyncContextManager[Any]:
    """Start vLLM's AsyncLLM; leaving the context shuts its processes down.

    Touches: `vllm.entrypoints.launchers.api_server.entry.build_async_engine_client`.
    """
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client

    engine: AbstractAsyncContextManager[Any] = build_async_engine_client(arguments)
    return engine


async def build_openai_app(engine: Any, arguments: Namespace, tasks: tuple[str, ...]) -> Any:
    """vLLM's own OpenAI application over a running engine.

    Touches: `vllm.entrypoints.launchers.app.build_app`,
    `vllm.entrypoints.launchers.api_server.app_state.init_app_state`.
    """
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app

    app = build_app(arguments, tasks, engine.model_config)
    await init_app_state(engine, app.state, arguments, tasks)
    return app


def register_adapter(app: Any, worker_model: str, number: int, folder: str) -> Any:
    """Make requests for `worker_model` use the adapter in `folder`; nothing is loaded yet.

    Touches: `app.state.openai_serving_models.lora_requests`, `vllm.lora.request.LoRARequest`.
    """
    from vllm.lora.request import LoRARequest

    request = LoRARequest(lora_name=worker_model, lora_int_id=number, lora_path=folder)
    app.state.openai_serving_models.lora_requests[worker_model] = request
    return request


def forget_adapter(app: Any, worker_model: str) -> None:
    """Undo `register_adapter`. Touches: `app.state.openai_serving_models.lora_requests`."""
    del app.state.openai_serving_models.lora_requests[worker_model]


def answer_with_public_names(app: Any, public: Mapping[str, str]) -> None:
    """Write the inference key, not the name inside the worker, into `model` of every answer.

    Touches: `OpenAIServingModels.model_name`, which each serving class calls for that field.
    """
    models = app.state.openai_serving_models
    inside = models.model_name

    def model_name(lora_request: Any = None) -> str:
        name: str = inside(lora_request)
        return public.get(name, name)

    models.model_name = model_name


def engine_is_dead(engine: Any) -> bool:
    """vLLM offers no event for the death of its engine process; this is a cheap look at its flag.

    Touches: `AsyncLLM.errored`.
    """
    return bool(engine.errored)


def vllm_version() -> str:
    """The version that runs, for the gateway's answers."""
    import vllm

    return str(vllm.__version__)
