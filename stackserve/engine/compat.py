"""Every touch of vLLM's internals, one function each. Tried on the versions in `TRIED`.

Those for adapters that come and go, clean KV blocks, and CPUs alone are in `compat_adapters`,
`compat_kv` and `compat_cpu`.

vLLM promises none of these names. When a new version moves one, these are the files to mend.
"""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from stackserve.engine.lora_choice import Facts
    from stackserve_kernels.lora.selfcheck import Shape

TRIED = ("0.32.0",)

logger = logging.getLogger(__name__)


def warn_if_untried() -> None:
    """Log a warning when this vLLM is not one that stackserve was tried on."""
    import vllm

    release = vllm.__version__.split("+")[0]
    if release not in TRIED:
        logger.warning("stackserve was tried on vLLM %s, not %s", ", ".join(TRIED), release)


def use_punica_wrapper(device: Literal["cpu", "cuda"], qualified_name: str) -> bool:
    """Make vLLM call what is named for the object that applies LoRA. False, and no change, elsewhere.

    `cuda` is NVIDIA alone: ROCm keeps vLLM's own. Touches:
    `vllm.platforms.current_platform.get_punica_wrapper`, a class method that returns the name of
    something to call.
    """
    from vllm.platforms import current_platform

    here = current_platform.is_cpu() if device == "cpu" else current_platform.is_cuda()
    if not here:
        return False
    platform_class = type(current_platform)
    platform_class.get_punica_wrapper = classmethod(lambda cls: qualified_name)
    return True


def lora_facts() -> Facts:
    """What decides whether our kernels may compute adapters on a GPU. Called while a model is loaded.

    Touches: `get_current_vllm_config()` and what `in_the_way` and `_shapes_of` read of it,
    `vllm.envs.VLLM_LORA_ENABLE_DUAL_STREAM`.
    """
    from vllm import envs
    from vllm.config import get_current_vllm_config

    from stackserve.engine.lora_choice import Facts

    config = get_current_vllm_config()
    model, lora, parallel = config.model_config, config.lora_config, config.parallel_config
    in_the_way = {
        "fully_sharded_loras": lora.fully_sharded_loras,
        "dual_stream": envs.VLLM_LORA_ENABLE_DUAL_STREAM,
        "specialize_active_lora": lora.specialize_active_lora,
        "enable_tower_connector_lora": lora.enable_tower_connector_lora,
        "experts": model.is_moe,
        "latent_attention": model.use_mla,
        "enable_sleep_mode": model.enable_sleep_mode,
        "ubatching": parallel.use_ubatching,
        "context_parallel": parallel.prefill_context_parallel_size > 1,
        "kv_sharing_fast_prefill": config.cache_config.kv_sharing_fast_prefill,
        "additional_config": not isinstance(config.additional_config, dict),
    }
    return Facts(
        shapes=_shapes_of(model, parallel),
        max_loras=lora.max_loras,
        max_rank=lora.max_lora_rank,
        dtype=model.dtype,
        lora_dtype=lora.lora_dtype,
        in_the_way=frozenset(name for name, there in in_the_way.items() if there),
    )


def _shapes_of(model: Any, parallel: Any) -> tuple[Shape, ...]:
    """q/k/v, o, gate/up and down as one GPU has them; empty when the model's config does not tell."""
    from stackserve_kernels.lora.selfcheck import Shape

    inter = getattr(model.hf_text_config, "intermediate_size", None)
    if not isinstance(inter, int):
        return ()
    hidden, inter = model.get_hidden_size(), inter // parallel.tensor_parallel_size
    q = model.get_num_attention_heads(parallel) * model.get_head_size()
    kv = model.get_num_kv_heads(parallel) * model.get_head_size()
    sizes = ((hidden, (q, kv, kv)), (q, (hidden,)), (hidden, (inter, inter)), (inter, (hidden,)))
    return tuple(Shape(*each) for each in sizes)


@contextmanager
def forgetting_stacked_weights() -> Iterator[Any]:
    """Gives a function that makes vLLM's operators forget which weights they have seen.

    They keep strides by address, for good; weights that are freed leave an entry that is wrong for
    what comes to lie there. What they knew before is put back at the end.

    Touches: `vllm.lora.ops.triton_ops.utils._LORA_A_PTR_DICT`, `._LORA_B_PTR_DICT`.
    """
    from vllm.lora.ops.triton_ops import utils

    seen = utils._LORA_A_PTR_DICT, utils._LORA_B_PTR_DICT
    before = [dict(each) for each in seen]

    def forget() -> None:
        for each in seen:
            each.clear()

    forget()
    try:
        yield forget
    finally:
        forget()
        for each, old in zip(seen, before, strict=True):
            each.update(old)


def compile_apart(name: str, value: str) -> None:
    """Keep graphs that vLLM compiles now, and finds again later, apart from those of other choices.

    Touches: `VllmConfig.additional_config`, which is part of `VllmConfig.compute_hash`.
    """
    from vllm.config import get_current_vllm_config

    get_current_vllm_config().additional_config[name] = value


def say(message: str) -> None:
    """A line in the log of plain vLLM too, which shows its own loggers and no others below a warning.

    Touches: the logger `vllm`.
    """
    logging.getLogger("vllm.stackserve").info("stackserve: %s", message)


def bind_adapters_to_layers() -> None:
    """Let each LoRA module ask its punica wrapper for one of its own, and compute base and adapters in
    one call; let that wrapper know which slot has new weights.

    Touches: `BaseLayerWithLoRA.set_mapping`, `BaseLinearLayerWithLoRA._apply_sync`,
    `LoRAModelManager.activate_adapter`, `.modules`, `.lora_index_to_id`.
    """
    from vllm.lora.layers.base import BaseLayerWithLoRA
    from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
    from vllm.lora.model_manager import LoRAModelManager

    from stackserve_kernels.lora import WeightMemory

    inside_mapping = BaseLayerWithLoRA.set_mapping
    inside_apply = BaseLinearLayerWithLoRA._apply_sync
    inside_activate = LoRAModelManager.activate_adapter
    if getattr(inside_activate, "loads_slots", False):
        return

    def set_mapping(module: Any, punica_wrapper: Any) -> None:
        for_layer = getattr(punica_wrapper, "for_layer", None)
        inside_mapping(module, for_layer(module) if for_layer else punica_wrapper)

    def apply_sync(module: Any, x: Any, bias: Any = None) -> Any:
        linear = getattr(module.punica_wrapper, "linear", None)
        return linear(x, bias) if linear else inside_apply(module, x, bias)

    def activate_adapter(manager: Any, lora_id: int) -> bool:
        if not inside_activate(manager, lora_id):
            return False
        slot, memory = manager.lora_index_to_id.index(lora_id), WeightMemory()
        for module in manager.modules.values():
            load_slot = getattr(module.punica_wrapper, "load_slot", None)
            if load_slot:
                load_slot(slot, memory)
        return True

    activate_adapter.loads_slots = True  # type: ignore[attr-defined]
    BaseLayerWithLoRA.set_mapping = set_mapping
    BaseLinearLayerWithLoRA._apply_sync = apply_sync
    LoRAModelManager.activate_adapter = activate_adapter


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


def register_adapter(app: Any, worker_model: str, number: int, folder: str) -> None:
    """Make requests for `worker_model` use the adapter in `folder`; nothing is loaded yet.

    Touches: `app.state.openai_serving_models.lora_requests`, `vllm.lora.request.LoRARequest`.
    """
    from vllm.lora.request import LoRARequest

    request = LoRARequest(lora_name=worker_model, lora_int_id=number, lora_path=folder)
    app.state.openai_serving_models.lora_requests[worker_model] = request


def forget_adapter(app: Any, worker_model: str) -> None:
    """Undo `register_adapter`. Touches: `app.state.openai_serving_models.lora_requests`."""
    del app.state.openai_serving_models.lora_requests[worker_model]


def is_registered(app: Any, worker_model: str) -> bool:
    """Whether requests may name it. Touches: `app.state.openai_serving_models.lora_requests`."""
    return worker_model in app.state.openai_serving_models.lora_requests


def answer_with_public_names(app: Any, public: Callable[[str], str]) -> None:
    """Write the inference key, not the name inside the worker, into `model` of every answer.

    Touches: `OpenAIServingModels.model_name`, which each serving class calls for that field.
    """
    models = app.state.openai_serving_models
    inside = models.model_name

    def model_name(lora_request: Any = None) -> str:
        name: str = inside(lora_request)
        return public(name)

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
