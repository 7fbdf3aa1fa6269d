"""vLLM's LoRA operator interface ("punica wrapper") on stackserve's kernels, for CPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from vllm.lora.punica_wrapper.punica_base import PunicaWrapperBase

from stackserve.engine import compat
from stackserve.engine.lora_layer import bind_layer
from stackserve_kernels import lora


class GroupedPunicaWrapper(PunicaWrapperBase):  # type: ignore[misc]  # vllm is untyped here
    """The adapters of a batch: a row gets its own adapter's delta, or is not touched.

    vLLM calls `update_metadata` when a step's rows change, then the ops once a layer. Token rows and
    sampled rows have a plan each: linear layers and embeddings see the first, logits the second.
    Layers with kernels of their own ask for theirs with `for_layer`; the ops here serve the others,
    whose weights lie stacked as vLLM keeps them.
    """

    def __init__(
        self,
        max_num_batched_tokens: int,
        max_batches: int,
        device: torch.device | str,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_num_batched_tokens, max_batches, device)
        compat.say(f"LoRA runs on {lora.kernels_in_use()}")
        self.tokens = lora.plan_rows(())
        self.samples = lora.plan_rows(())

    def for_layer(self, module: Any) -> Any:
        """What `module` may call in place of this wrapper: its own weights, already bound."""
        return bind_layer(self, module) or self

    def update_metadata(
        self,
        mapping: Any,
        lora_index_to_id: list[int | None],
        max_loras: int,
        vocab_size: int,
        **kwargs: Any,
    ) -> None:
        """Plan the step, and fill the index tensors of the base class, which embedding layers read."""
        tokens = slots_of(mapping.index_mapping, lora_index_to_id)
        samples = slots_of(mapping.prompt_mapping, lora_index_to_id)
        self.tokens = lora.plan_rows(tokens)
        self.samples = lora.plan_rows(samples)
        padded = np.where(samples < 0, max_loras - 1, samples) * len(samples)
        filled = (
            (self._token_lora_indices, tokens),
            (self._sampler_indices, samples),
            (self._sampler_indices_padded, np.arange(len(samples)) + padded),
            (self._embeddings_indices, np.maximum(tokens, 0) * vocab_size),
        )
        for index, (tensor, values) in enumerate(filled):
            tensor[: len(values)] = torch.from_numpy(values)
            self.indices_len[index] = len(values)

    def plan_of_logits(self, x: torch.Tensor) -> lora.BatchPlan:
        first = first_token_row(x, self.samples.num_rows)
        return self.samples if first is None else self.tokens.window(first, x.shape[0])

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: tuple[torch.Tensor, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        a, b = _matrices(lora_a_stacked), _matrices(lora_b_stacked)
        lora.add_stacked(_rows(y), _rows(x), a, b, scale, self.tokens)

    def add_shrink(
        self,
        y: tuple[torch.Tensor, ...] | torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        scale: float,
        **kwargs: Any,
    ) -> None:
        lora.add_shrink(tuple(y), _rows(x), _matrices(lora_a_stacked), scale, self.tokens)

    def add_expand(
        self,
        y: torch.Tensor,
        x: tuple[torch.Tensor, ...] | torch.Tensor,
        lora_b_stacked: tuple[torch.Tensor, ...],
        output_slices: tuple[int, ...],
        offset_start: int = 0,
        add_inputs: bool = True,
        **kwargs: Any,
    ) -> None:
        lora.add_expand(_rows(y), tuple(x), _matrices(lora_b_stacked), offset_start, self.tokens)

    def add_lora_embedding(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        add_inputs: bool = True,
        **kwargs: Any,
    ) -> None:
        lora.add_expand(_rows(y), (_rows(x),), _matrices((lora_b_stacked,)), 0, self.tokens)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        *,
        buffer: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        a, b = _matrices((lora_a_stacked,)), _matrices((lora_b_stacked,))
        lora.add_stacked(_rows(y), _rows(x), a, b, scale, self.plan_of_logits(_rows(x)))

    def apply_lora_full_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        weight_stacked: torch.Tensor,
        bias_stacked: torch.Tensor,
        module_enabled: torch.Tensor,
    ) -> None:
        (weight,) = _matrices((weight_stacked,))
        bias = bias_stacked.view(weight.shape[0], -1)
        lora.replace_rows(y, x, weight, bias, module_enabled, self.samples)


def first_token_row(x: torch.Tensor, samples: int) -> int | None:
    """Which token row an LM head's first row is; None when its rows are those that are sampled.

    Sampled rows are a gathered copy; prompt log-probabilities ask for a view of the token rows. vLLM
    does not say which it is. A view's offset in its storage is its first token row.
    """
    gathered = x.untyped_storage().nbytes() == x.nbytes
    if gathered and x.shape[0] == samples:
        return None
    return int(x.storage_offset() // x.stride(0))


def slots_of(ids: Sequence[int], lora_index_to_id: Sequence[int | None]) -> np.ndarray:
    """The slot of each adapter id, `NO_ADAPTER` for id 0. KeyError for an id that has no slot."""
    wanted = np.asarray(ids, dtype=np.int64)
    loaded = {0: lora.NO_ADAPTER} | {id_: slot for slot, id_ in enumerate(lora_index_to_id) if id_}
    known = np.array(sorted(loaded), dtype=np.int64)
    at = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    if not np.array_equal(known[at], wanted):
        raise KeyError(f"adapters {set(wanted.tolist()) - loaded.keys()} have no slot")
    slots = np.array([loaded[id_] for id_ in known.tolist()], dtype=np.int64)
    return np.take(slots, at)


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(-1, tensor.shape[-1])


def _matrices(stacked: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """[slots, 1, m, n] or [slots, m, n] → [slots, m, n], without a copy."""
    return tuple(t.flatten(0, -3) if t.dim() == 4 else t for t in stacked)
