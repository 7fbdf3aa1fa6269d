"""Every touch of vLLM's internals that scheduling and residency of adapters need. See `compat`."""

from __future__ import annotations

import copy
import functools
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

from stackserve_kernels.lora import SliceWeights

FAILED = "adapter_load_failed: "
"""Marks a request's stop reason as ours on its way from the engine to its caller."""

_executors: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def remember_executors() -> None:
    """Let a scheduler find the worker processes of its engine: `rpc_of`.

    Touches: `vllm.v1.executor.abstract.Executor.__init__`, which is given the configuration that the
    scheduler is given later.
    """
    from vllm.v1.executor.abstract import Executor

    inside = Executor.__init__
    if getattr(inside, "remembers", False):
        return

    def init(executor: Any, vllm_config: Any) -> None:
        _executors[id(vllm_config)] = executor
        inside(executor, vllm_config)

    init.remembers = True  # type: ignore[attr-defined]
    Executor.__init__ = init


def rpc_of(vllm_config: Any) -> Callable[..., list[Any]]:
    """`collective_rpc` of the engine that has this configuration. KeyError when there is none.

    Touches: `Executor.collective_rpc`.
    """
    rpc: Callable[..., list[Any]] = _executors[id(vllm_config)].collective_rpc
    return rpc


def use_slot_manager(scheduler: str, manager: str) -> None:
    """Let workers whose engine has the scheduler of that qualified name, or a subclass, keep adapters in
    the manager of that one; all others keep vLLM's.

    Touches: `LRUCacheWorkerLoRAManager` as `vllm.v1.worker.lora_model_runner_mixin` names it,
    `SchedulerConfig.scheduler_cls`, `.get_scheduler_cls`.
    """
    from vllm.utils.import_utils import resolve_obj_by_qualname
    from vllm.v1.worker import lora_model_runner_mixin as mixin

    inside = mixin.LRUCacheWorkerLoRAManager
    if getattr(inside, "chooses", False):
        return

    def make(vllm_config: Any, *args: Any, **kwargs: Any) -> Any:
        config = vllm_config.scheduler_config
        ours = config.scheduler_cls is not None and issubclass(
            config.get_scheduler_cls(), resolve_obj_by_qualname(scheduler)
        )
        chosen = resolve_obj_by_qualname(manager) if ours else inside
        return chosen(vllm_config, *args, **kwargs)

    make.chooses = True  # type: ignore[attr-defined]
    mixin.LRUCacheWorkerLoRAManager = make


def answer_for_adapters(command: Callable[[Any, str, Mapping[str, Any]], Any]) -> None:
    """Give the engine process a utility `adapters(operation, arguments)`, answered by
    `command(scheduler, operation, arguments)`, and let vLLM's own four about LoRA go there.

    Touches: `EngineCore.add_lora`, `.remove_lora`, `.list_loras`, `.pin_lora`, `.scheduler`.
    """
    from vllm.v1.engine.core import EngineCore

    if hasattr(EngineCore, "adapters"):
        return

    def adapters(core: Any, operation: str, arguments: Mapping[str, Any]) -> Any:
        return command(core.scheduler, operation, arguments)

    def ours_or(inside: Any, ours: Callable[..., Any]) -> Any:
        @functools.wraps(inside)  # vLLM reads the types of the arguments
        def utility(core: Any, *args: Any) -> Any:
            is_ours = hasattr(core.scheduler, "residency")
            return ours(core, *args) if is_ours else inside(core, *args)

        return utility

    EngineCore.adapters = adapters
    EngineCore.add_lora = ours_or(
        EngineCore.add_lora, lambda core, request: core.adapters("add", {"source": request})
    )
    EngineCore.remove_lora = ours_or(
        EngineCore.remove_lora, lambda core, number: core.adapters("remove", {"id": number})
    )
    EngineCore.pin_lora = ours_or(
        EngineCore.pin_lora, lambda core, number: core.adapters("pin", {"id": number}) is None
    )
    EngineCore.list_loras = ours_or(EngineCore.list_loras, lambda core: core.adapters("list", {}))


def lora_request(name: str, number: int, folder: str) -> Any:
    """What vLLM calls an adapter by. Touches: `vllm.lora.request.LoRARequest`."""
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora_name=name, lora_int_id=number, lora_path=folder)


def check_request(lora_request: Any) -> None:
    """ValueError for what would put new weights under an old name. Touches: `LoRARequest.load_inplace`."""
    if lora_request.load_inplace:
        raise ValueError(
            f"{lora_request.lora_name} is to be loaded in place, which could answer with either weights; "
            "give new weights a name and an id of their own"
        )


def uncache_uncomputed(scheduler: Any, request: Any) -> None:
    """Before a request is preempted: let nobody find those of its KV blocks in the prefix cache that were
    to be filled in this very step. vLLM 0.32 leaves them there, and the request itself finds them when it
    resumes (vllm-project/vllm#57580 tells of one case).

    Touches: `Scheduler.block_size`, `.kv_cache_manager.get_block_ids`, `.evict_blocks`.
    """
    whole = request.num_computed_tokens // scheduler.block_size
    for blocks in scheduler.kv_cache_manager.get_block_ids(request.request_id)[:1]:
        scheduler.kv_cache_manager.evict_blocks(set(blocks[whole:]))


async def ask_scheduler(engine: Any, operation: str, arguments: Mapping[str, Any]) -> Any:
    """Call `adapters` in the engine process. Touches: `AsyncLLM.engine_core.call_utility_async`."""
    return await engine.engine_core.call_utility_async("adapters", operation, dict(arguments))


def raise_adapter_failures() -> None:
    """Let who waits for a request whose adapter could not be loaded get the reason, with status 503.

    Touches: `AsyncLLM.generate`, `.encode`, `vllm.exceptions.GracefulHTTPError`.
    """
    from vllm.exceptions import GracefulHTTPError
    from vllm.v1.engine.async_llm import AsyncLLM

    if getattr(AsyncLLM.generate, "raises", False):
        return

    def checked(inside: Any) -> Any:
        async def stream(engine: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            async with aclosing(inside(engine, *args, **kwargs)) as outputs:
                async for output in outputs:
                    if output.finished and (reason := failure_in(output)):
                        raise GracefulHTTPError(reason, HTTPStatus.SERVICE_UNAVAILABLE)
                    yield output

        stream.raises = True  # type: ignore[attr-defined]
        return stream

    AsyncLLM.generate = checked(AsyncLLM.generate)
    AsyncLLM.encode = checked(AsyncLLM.encode)


def failure_in(output: Any) -> str | None:
    """Why a request's adapter could not be loaded, as its caller reads it; None when it was.

    Touches: `RequestOutput.outputs[].stop_reason`, `PoolingRequestOutput.outputs.data`.
    """
    outputs = output.outputs
    reasons = [each.stop_reason for each in outputs] if isinstance(outputs, list) else ()
    for reason in (*reasons, _told_by(outputs)):
        if isinstance(reason, str) and reason.startswith(FAILED):
            return f"{reason.removeprefix(FAILED)} ({FAILED.rstrip(': ')})"
    return None


def failure_output(request: Any) -> Any:
    """What an engine says of a request that has failed with a stop reason. A pooling request's output has
    room for a tensor alone: it gets the reason's bytes, a type that no vector has.

    Touches: `vllm.v1.engine.EngineCoreOutput`, `Request.pooling_params`.
    """
    import torch
    from vllm.v1.engine import EngineCoreOutput

    told = torch.frombuffer(bytearray(request.stop_reason.encode()), dtype=torch.uint8)
    return EngineCoreOutput(
        request_id=request.request_id,
        new_token_ids=[],
        pooling_output=told if request.pooling_params is not None else None,
        finish_reason=request.get_finished_reason(),
        stop_reason=request.stop_reason,
        events=request.take_events(),
        trace_headers=request.trace_headers,
    )


def _told_by(pooling_output: Any) -> str | None:
    import torch

    data = getattr(pooling_output, "data", None)
    if not isinstance(data, torch.Tensor) or data.dtype != torch.uint8:
        return None
    return bytes(data.tolist()).decode(errors="replace")


def outcome_of(request: Any) -> str:
    """How a finished request ended: stop, length, abort, error, repetition.

    Touches: `Request.get_finished_reason`, `vllm.v1.engine.FinishReason`.
    """
    return str(request.get_finished_reason())


def served_name(vllm_config: Any) -> str:
    """The base's own inference key. Touches: `ModelConfig.served_model_name`."""
    name = vllm_config.model_config.served_model_name
    return str(name[0] if isinstance(name, list) else name)


def merged(manager: Any, model: Any) -> Any:
    """An adapter as read, with q, k, v and the like put together as the model's modules are.

    Touches: `LoRAModelManager._create_merged_loras_inplace`, which folds the scale into B.
    """
    manager._create_merged_loras_inplace(model)
    return model


def weights_of(manager: Any, model: Any, module_name: str) -> Any:
    """What an adapter has for a module; None for nothing.

    Touches: `LoRAModelManager._get_lora_layer_weights`.
    """
    return manager._get_lora_layer_weights(model, module_name)


def num_bytes_of(weights: Any) -> int:
    """Touches: `LoRALayerWeights.lora_a`, `.lora_b`, tensors or lists of them."""
    return sum(
        each.nbytes for each in (*_list(weights.lora_a), *_list(weights.lora_b)) if each is not None
    )


def slices_of(module: Any, weights: Any) -> tuple[SliceWeights | None, ...]:
    """An adapter's weights as a linear module or an LM head has its slices on this rank.

    Touches: `lora_a`, `lora_b` of `LoRALayerWeights` and of `PackedLoRALayerWeights`; of the modules
    `n_slices`, `tp_size`, `slice_lora_a`, `slice_lora_b`, `expand_packed_lora`,
    `base_layer.output_sizes`: what each class's `set_lora` does before it copies.
    """
    a, b = weights.lora_a, weights.lora_b
    count = getattr(module, "n_slices", 1)
    if count > 1:
        if not isinstance(a, list):
            a = [a] * count
        if not isinstance(b, list):
            b = list(b.split(list(module.base_layer.output_sizes)))
        if len(b) != count:
            a, b = module.expand_packed_lora(a, b)
    if hasattr(module, "slice_lora_a") and module.tp_size > 1:
        a, b = module.slice_lora_a(a), module.slice_lora_b(b)
    pairs = zip(_list(a), _list(b), strict=True)
    return tuple(None if a is None or b is None else SliceWeights(a, b) for a, b in pairs)


def keep_full_modules_only(model: Any) -> None:
    """Free what has been prepared. Touches: `LoRAModel.loras`."""
    model.loras = {}


def set_module(manager: Any, name: str, module: Any, slot: int, weights: Any, model: Any) -> None:
    """Fill a slot of a module that vLLM itself computes; None empties it.

    Touches: `set_lora`, `reset_lora`, `set_module_to_save`, `reset_module_to_save` of the modules,
    `LoRAModelManager._get_module_to_save_weights`.
    """
    if hasattr(module, "set_module_to_save"):
        full = manager._get_module_to_save_weights(model, name) if model is not None else None
        if full is None:
            module.reset_module_to_save(slot)
        else:
            module.set_module_to_save(slot, full.weight, full.bias)
    if weights is None:
        module.reset_lora(slot)
    else:
        module.set_lora(slot, weights.lora_a, weights.lora_b)


def check_module(manager: Any, name: str, module: Any, weights: Any, model: Any) -> None:
    """Raise what `set_module` would raise for weights that do not fit; changes nothing, in any thread.

    Touches: as `set_module`, on a copy of the module whose tensors of slots have shapes alone.
    """
    import torch

    trial = copy.copy(module)
    for attribute, value in vars(module).items():
        if "stacked" in attribute and isinstance(value, torch.Tensor):
            setattr(trial, attribute, value.to("meta"))
        elif "stacked" in attribute and isinstance(value, tuple):
            setattr(trial, attribute, tuple(each.to("meta") for each in value))
    set_module(manager, name, trial, 0, weights, model)


def name_slots(manager: Any, slot_of: Mapping[int, int]) -> None:
    """Let vLLM's mapping of rows know which adapter is in which slot.

    Touches: `LoRAModelManager.lora_index_to_id`.
    """
    names: list[int | None] = [None] * manager.lora_slots
    for adapter_id, slot in slot_of.items():
        names[slot] = adapter_id
    manager.lora_index_to_id = names


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
