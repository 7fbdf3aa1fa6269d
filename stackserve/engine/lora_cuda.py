"""vLLM's LoRA operator interface ("punica wrapper") on NVIDIA GPUs: our Triton kernels, or vLLM's own.

Nothing here may branch on what is in a batch: a captured CUDA graph replays the launches alone, with
whatever the plans and the slots hold by then. So a layer launches for an empty batch and for empty
slots too, and vLLM's profile run, which has neither rows with adapters nor weights, compiles the
kernels of every layer before a graph is captured.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.lora.layers.logits_processor import LogitsProcessorWithLoRA
from vllm.lora.punica_wrapper.punica_gpu import PunicaWrapperGPU

from stackserve.engine import compat, operators
from stackserve.engine.lora import first_token_row, slots_of
from stackserve.engine.lora_choice import choose
from stackserve.engine.lora_layer import (
    MakeLayer,
    SlottedLayer,
    is_whole_linear,
    linear_type,
    logits_type,
    rows_of,
    slots_of_linear,
    slots_of_logits,
)
from stackserve_kernels import lora
from stackserve_kernels.lora.device_plan import DevicePlan
from stackserve_kernels.lora.triton import TritonLayer


def make_wrapper(
    max_num_batched_tokens: int,
    max_batches: int,
    device: torch.device | str,
    **kwargs: Any,
) -> PunicaWrapperGPU:
    """What vLLM's layers apply adapters with: ours where the check says so, else just what vLLM has."""
    lora_config = kwargs["lora_config"]
    verdict = choose(
        compat.lora_facts,
        lambda rows: PunicaWrapperGPU(rows, rows, device, lora_config=lora_config),
        device,
    )
    if not verdict.use_ours:
        return PunicaWrapperGPU(max_num_batched_tokens, max_batches, device, **kwargs)
    compat.compile_apart("stackserve_lora", "triton")
    return TritonPunicaWrapper(max_num_batched_tokens, max_batches, device, **kwargs)


class TritonPunicaWrapper(PunicaWrapperGPU):  # type: ignore[misc]  # vllm is untyped here
    """Linear layers and the LM head have adapters on our kernels; all others use vLLM's operators.

    `tokens` and `samples` are the plans of a step on the device: linear layers see the first, logits
    the second. They are made in the first step, vLLM's profile run, when all layers are bound.
    """

    tokens: DevicePlan
    samples: DevicePlan

    def __init__(
        self,
        max_num_batched_tokens: int,
        max_batches: int,
        device: torch.device | str,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_num_batched_tokens, max_batches, device, **kwargs)
        self.max_rank = int(kwargs["lora_config"].max_lora_rank)
        self.step = lora.plan_rows(())
        self._max_rows = max_num_batched_tokens
        self._width = 0

    def for_layer(self, module: Any) -> Any:
        """What `module` may call in place of this wrapper: its own weights, already bound."""
        layer = bind_layer(self, module)
        if layer is None:
            return self
        self._width = max(self._width, layer.adapters.width)
        return layer

    def update_metadata(
        self,
        mapping: Any,
        lora_index_to_id: list[int | None],
        max_loras: int,
        vocab_size: int,
        **kwargs: Any,
    ) -> None:
        """Let vLLM's operators know the step, then ours, in the order of the current stream."""
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **kwargs)
        if not hasattr(self, "tokens"):
            with torch.inference_mode(False):  # else nothing may fill them outside of that mode
                self.tokens = DevicePlan(self._max_rows, self._width, self.device)
                self.samples = DevicePlan(self._max_rows, self._width, self.device)
        self.step = lora.plan_rows(slots_of(mapping.index_mapping, lora_index_to_id))
        self.tokens.fill(self.step)
        self.samples.fill(lora.plan_rows(slots_of(mapping.prompt_mapping, lora_index_to_id)))


class TritonBound(SlottedLayer):
    """A module whose adapters are in a `TritonLayer`, which has taken memory for all slots.

    Loading a slot waits for the GPU, once a slice, to learn the adapter's rank.
    """

    adapters: TritonLayer

    def _maker(self, dtype: torch.dtype) -> MakeLayer:
        def make(in_features: int, outs: tuple[int, ...], slots: int) -> TritonLayer:
            self.adapters = TritonLayer(
                in_features,
                outs,
                slots,
                dtype,
                self.wrapper.device,
                max_rank=self.wrapper.max_rank,
                reserve=True,
            )
            return self.adapters

        return make


class TritonLinear(TritonBound):
    """A linear layer. The base is computed by vLLM, so that its compiler may join it with others."""

    linear = None  # what `compat.bind_adapters_to_layers` asks for

    def __init__(self, wrapper: Any, module: Any) -> None:
        super().__init__(wrapper, module)
        self.weights = slots_of_linear(module, self._maker(linear_type(module)))
        self.of = torch.tensor([self.number], device="cpu")

    def add_lora_linear(self, y: torch.Tensor, x: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        operators.add_lora_of(y, x, self.of) if torch.compiler.is_compiling() else self.add(y, x)

    def add(self, y: torch.Tensor, x: torch.Tensor) -> None:
        y = rows_of(y)[:, : self.weights.out_features]
        self.adapters.add_planned(y, rows_of(x), self.wrapper.tokens)


class TritonLogits(TritonBound):
    """The LM head, which vLLM computes outside of its graphs."""

    def __init__(self, wrapper: Any, module: Any) -> None:
        super().__init__(wrapper, module)
        self.weights = slots_of_logits(module, self._maker(logits_type(module)))

    def add_lora_logits(self, y: torch.Tensor, x: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        self.add(y, x)

    def add(self, y: torch.Tensor, x: torch.Tensor) -> None:
        """y may have columns past the vocabulary. A prompt's rows get a plan of their own."""
        y, x = rows_of(y)[:, : self.weights.out_features], rows_of(x)
        first = first_token_row(x, self.wrapper.samples.num_rows)
        if first is None:
            self.adapters.add_planned(y, x, self.wrapper.samples)
        else:
            self.adapters.add(y, x, self.wrapper.step.window(first, x.shape[0]))


def bind_layer(wrapper: Any, module: Any) -> TritonBound | None:
    """The bound layer for a module of vLLM's; None where rows or weights are not as our kernels need."""
    if isinstance(module, LogitsProcessorWithLoRA):
        same = logits_type(module) == module.lora_a_stacked.dtype
        return TritonLogits(wrapper, module) if same else None
    if not is_whole_linear(module):
        return None
    same = linear_type(module) == module.lora_a_stacked[0].dtype
    return TritonLinear(wrapper, module) if same else None
