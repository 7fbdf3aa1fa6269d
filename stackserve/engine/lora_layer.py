"""One layer's adapters inside vLLM: loaded slot by slot, computed together with the base layer.

A bound layer takes the place of the punica wrapper in one of vLLM's LoRA modules. A compiled graph
sees it as the opaque operators of `operators`, which find it by its number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
from vllm.lora.layers.classifier import ClassificationHeadWithLoRA
from vllm.lora.layers.logits_processor import LogitsProcessorWithLoRA
from vllm.lora.layers.vocab_parallel_embedding import VocabParallelEmbeddingWithLoRA

from stackserve.engine import operators
from stackserve.engine.base_linear import AmxProduct
from stackserve_kernels import lora

MakeLayer = Callable[[int, tuple[int, ...], int], lora.LoraLayer]
"""Makes the layer that computes from its input features, its output features, and its slots."""


class BoundLayer:
    """The adapters of one LoRA module. What it does not do itself, the punica wrapper does."""

    def __init__(self, wrapper: Any, module: Any) -> None:
        self.wrapper = wrapper
        self.module = module
        self.number = operators.register(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapper, name)

    def load_slot(self, slot: int, memory: lora.WeightMemory) -> None:
        """Take over what vLLM has just written into the stacked weights of `slot`.

        `memory` is the same for all layers of an adapter.
        """
        raise NotImplementedError

    def add(self, y: torch.Tensor, x: torch.Tensor) -> None:
        """Add every row's adapter to y, in place."""
        raise NotImplementedError


class SlottedLayer(BoundLayer):
    """A module whose adapters are packed slot by slot into `weights`."""

    weights: SlotWeights

    def load_slot(self, slot: int, memory: lora.WeightMemory) -> None:
        self.place(slot, self.prepare(self.weights.slices_in(slot), memory))

    def prepare(
        self, slices: tuple[lora.SliceWeights | None, ...], memory: lora.WeightMemory
    ) -> lora.PreparedWeights | None:
        """An adapter's weights as `place` wants them; None when it has none here. In any thread."""
        if not any(slices):
            return None
        return self.weights.adapters.prepare(lora.LayerWeights(slices), memory)

    def place(self, slot: int, prepared: lora.PreparedWeights | None) -> None:
        """Let `slot` hold what was prepared, whatever it held before."""
        if prepared is None:
            self.weights.adapters.unload(slot)
        else:
            self.weights.adapters.place(slot, prepared)


class BoundLinear(SlottedLayer):
    """A linear layer."""

    def __init__(self, wrapper: Any, module: Any) -> None:
        super().__init__(wrapper, module)
        self.weights = slots_of_linear(module, _for_rows_of(linear_type(module), module))
        self.out_features = self.weights.out_features
        base, adapters = module.base_layer.__dict__.get("cpu_linear"), self.weights.adapters
        self._one_pass = (
            (base, adapters)
            if isinstance(base, AmxProduct)
            and isinstance(adapters, lora.CpuLayer)
            and base.product.takes(adapters)
            else None
        )

    def linear(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """The base layer and every row's adapter: [..., in] → [..., sum of out]."""
        if torch.compiler.is_compiling():
            return operators.linear(x, bias, self.number)
        return self.compute(x, bias)

    def compute(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """`linear`, now."""
        if self._one_pass:
            base, adapters = self._one_pass
            return base.compute(x, bias, adapters, self.wrapper.tokens)
        y: torch.Tensor = self.module._get_quant_method().apply(self.module.base_layer, x, bias)
        self.add(y, x)
        return y

    def add_lora_linear(self, y: torch.Tensor, x: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """For base layers that compute more than a product: adds to what they gave."""
        operators.add_lora(y, x, self.number) if torch.compiler.is_compiling() else self.add(y, x)

    def add(self, y: torch.Tensor, x: torch.Tensor) -> None:
        self.weights.adapters.add(rows_of(y), rows_of(x), self.wrapper.tokens)


class BoundLogits(SlottedLayer):
    """The LM head: rows are those that are sampled, or a view of a prompt's."""

    def __init__(self, wrapper: Any, module: Any) -> None:
        super().__init__(wrapper, module)
        self.weights = slots_of_logits(module, _for_rows_of(logits_type(module), module))

    def add_lora_logits(self, y: torch.Tensor, x: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        self.add(y, x)

    def add(self, y: torch.Tensor, x: torch.Tensor) -> None:
        if not self.weights.adapters.is_empty:
            self.weights.adapters.add(
                rows_of(y), rows_of(x), self.wrapper.plan_of_logits(rows_of(x))
            )


class BoundEmbedding(BoundLayer):
    """The input embedding. Looking A up is vLLM's; without such weights nothing is computed."""

    def __init__(self, wrapper: Any, module: Any) -> None:
        super().__init__(wrapper, module)
        self._embeddings_indices = wrapper._embeddings_indices  # read while a graph is traced
        self._loaded: set[int] = set()

    def load_slot(self, slot: int, memory: lora.WeightMemory) -> None:
        used = bool(self.module.lora_b_stacked[slot].any())
        (self._loaded.add if used else self._loaded.discard)(slot)

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, *args: Any, **kwargs: Any
    ) -> None:
        operators.add_lora(y, x, self.number) if torch.compiler.is_compiling() else self.add(y, x)

    def add(self, y: torch.Tensor, x: torch.Tensor) -> None:
        if self._loaded:
            self.wrapper.add_lora_embedding(y, x, self.module.lora_b_stacked)


class SlotWeights:
    """A layer's stacked weights as vLLM writes them, and the packed ones that are computed with.

    vLLM writes one adapter at a time, so `a` and `b` are single slots that look like all: what is in
    them is packed at once, each adapter at its own rank.
    """

    def __init__(
        self, a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...], make: MakeLayer
    ) -> None:
        in_features, outs = a[0].shape[-1], tuple(each.shape[-2] for each in b)
        self.out_features = sum(outs)
        self.adapters = make(in_features, outs, len(a[0]))
        self.a = tuple(_one_slot(each) for each in a)
        self.b = tuple(_one_slot(each) for each in b)

    def slices_in(self, slot: int) -> tuple[lora.SliceWeights | None, ...]:
        """What vLLM has just written into `slot`."""
        stacked = zip(self.a, self.b, strict=True)
        return tuple(_own_rank(a[slot, 0], b[slot, 0]) for a, b in stacked)


def bind_layer(wrapper: Any, module: Any) -> BoundLayer | None:
    """The bound layer for a module of vLLM's, None for kinds that the punica wrapper serves itself."""
    if isinstance(module, VocabParallelEmbeddingWithLoRA):
        return BoundEmbedding(wrapper, module)
    if isinstance(module, LogitsProcessorWithLoRA):
        return BoundLogits(wrapper, module)
    return BoundLinear(wrapper, module) if is_whole_linear(module) else None


def is_whole_linear(module: Any) -> bool:
    """A linear layer whose adapters lie whole on this device, and add to what it gives."""
    if not isinstance(module, BaseLinearLayerWithLoRA):
        return False
    sharded = bool(module.lora_config.fully_sharded_loras)
    return not sharded and not isinstance(module, ClassificationHeadWithLoRA)


def slots_of_linear(module: Any, make: MakeLayer) -> SlotWeights:
    """Take the place of a linear module's stacked weights."""
    weights = SlotWeights(module.lora_a_stacked, module.lora_b_stacked, make)
    module.lora_a_stacked, module.lora_b_stacked = weights.a, weights.b
    return weights


def slots_of_logits(module: Any, make: MakeLayer) -> SlotWeights:
    """Take the place of an LM head's stacked weights."""
    weights = SlotWeights((module.lora_a_stacked,), (module.lora_b_stacked,), make)
    (module.lora_a_stacked,), (module.lora_b_stacked,) = weights.a, weights.b
    return weights


def linear_type(module: Any) -> torch.dtype:
    """The type of a linear module's rows."""
    dtype: torch.dtype = module.base_layer.params_dtype
    return dtype


def logits_type(module: Any) -> torch.dtype:
    """The type of the logits."""
    dtype: torch.dtype = module.base_layer.head_dtype or module.lora_a_stacked.dtype
    return dtype


def _for_rows_of(row_type: torch.dtype, module: Any) -> MakeLayer:
    """On CPUs: the fastest layer where rows are of the weights' type, else the one for any types."""
    if module.lora_a_stacked[0].dtype != row_type:
        return lora.GroupedLayer
    return lambda in_features, outs, slots: lora.make_layer(in_features, outs, slots, row_type)


def _one_slot(stacked: torch.Tensor) -> torch.Tensor:
    """[slots, 1, m, n] whose slots are all the same memory."""
    return stacked.new_zeros(1, *stacked.shape[1:]).expand(stacked.shape)


def _own_rank(a: torch.Tensor, b: torch.Tensor) -> lora.SliceWeights | None:
    """A slice without the zeros up to the largest rank; None when nothing else is in it."""
    used = (a.any(dim=1) | b.any(dim=0)).nonzero()
    if len(used) == 0:
        return None
    rank = int(used[-1]) + 1
    return lora.SliceWeights(a[:rank], b[:, :rank])


def rows_of(tensor: torch.Tensor) -> torch.Tensor:
    """[..., features] → [rows, features], without a copy."""
    return tensor.view(-1, tensor.shape[-1])
