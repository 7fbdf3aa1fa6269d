"""vLLM's LoRA operator interface ("punica wrapper") on stackserve's kernels, for CPUs."""

from __future__ import annotations

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_base import PunicaWrapperBase

from stackserve_kernels import lora


class GroupedPunicaWrapper(PunicaWrapperBase):  # type: ignore[misc]  # vllm is untyped here
    """Applies adapters by segment: a row gets its own adapter's delta, or is not touched.

    vLLM calls `update_metadata` once a step, then the ops once a layer. Token rows and sampled rows
    have a plan each: linear layers and embeddings see the first, logits the second.
    """

    def __init__(
        self,
        max_num_batched_tokens: int,
        max_batches: int,
        device: torch.device | str,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_num_batched_tokens, max_batches, device)
        self._tokens = lora.plan_rows(())
        self._samples = lora.plan_rows(())

    def update_metadata(
        self,
        mapping: Any,
        lora_index_to_id: list[int | None],
        max_loras: int,
        vocab_size: int,
        **kwargs: Any,
    ) -> None:
        """Plan the step. The index tensors of the base class stay filled: embedding layers read them."""
        self._update_base_metadata(mapping, lora_index_to_id, max_loras, vocab_size)
        slot_of = {id_: slot for slot, id_ in enumerate(lora_index_to_id) if id_ is not None}
        slot_of[0] = lora.NO_ADAPTER
        self._tokens = lora.plan_rows([slot_of[id_] for id_ in mapping.index_mapping])
        self._samples = lora.plan_rows([slot_of[id_] for id_ in mapping.prompt_mapping])

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
        lora.add_lora(
            _rows(y),
            _rows(x),
            _matrices(lora_a_stacked),
            _matrices(lora_b_stacked),
            scale,
            self._tokens,
        )

    def add_shrink(
        self,
        y: tuple[torch.Tensor, ...] | torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        scale: float,
        **kwargs: Any,
    ) -> None:
        lora.add_shrink(tuple(y), _rows(x), _matrices(lora_a_stacked), scale, self._tokens)

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
        lora.add_expand(_rows(y), tuple(x), _matrices(lora_b_stacked), offset_start, self._tokens)

    def add_lora_embedding(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        add_inputs: bool = True,
        **kwargs: Any,
    ) -> None:
        lora.add_expand(_rows(y), (_rows(x),), _matrices((lora_b_stacked,)), 0, self._tokens)

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
        lora.add_lora(
            _rows(y),
            _rows(x),
            _matrices((lora_a_stacked,)),
            _matrices((lora_b_stacked,)),
            scale,
            self._plan_of_logits(_rows(x)),
        )

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
        lora.replace_rows(y, x, weight, bias, module_enabled, self._samples)

    def _plan_of_logits(self, x: torch.Tensor) -> lora.BatchPlan:
        """Sampled rows are a gathered copy; prompt log-probabilities ask for a view of the token rows.

        vLLM does not say which it is. A view's offset in its storage is its first token row.
        """
        gathered = x.untyped_storage().nbytes() == x.nbytes
        if gathered and x.shape[0] == self._samples.num_rows:
            return self._samples
        return self._tokens.window(x.storage_offset() // x.stride(0), x.shape[0])


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(-1, tensor.shape[-1])


def _matrices(stacked: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """[slots, 1, m, n] or [slots, m, n] → [slots, m, n], without a copy."""
    return tuple(t.flatten(0, -3) if t.dim() == 4 else t for t in stacked)
