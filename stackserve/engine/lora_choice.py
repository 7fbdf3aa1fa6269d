"""Which kernels compute adapters on a GPU: ours, where a check finds them right and faster, or vLLM's.

The check runs once in a process for one kind of engine, while its model is loaded and before its
memory is measured. What it takes it gives back.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from stackserve.engine import compat
from stackserve_kernels.lora.selfcheck import (
    Run,
    Shape,
    Side,
    Trial,
    Verdict,
    choose_on_device,
)

ROWS = (1, 16, 64, 256)
"""Rows of the batches that are checked and timed: from one answer to a chunk of a prompt."""

MOST_SLOTS = 8
"""Adapters that a checked batch mixes, at most; more would take more memory, and tell little more."""

LARGEST_RANK = 512

DTYPES = (torch.bfloat16, torch.float16)

OBSTACLES = {
    "fully_sharded_loras": "fully_sharded_loras cuts adapters up between GPUs",
    "dual_stream": "VLLM_LORA_ENABLE_DUAL_STREAM computes adapters beside the base, on a second stream",
    "specialize_active_lora": "specialize_active_lora was not tried with them",
    "enable_tower_connector_lora": "enable_tower_connector_lora was not tried with them",
    "experts": "the model has experts, beside which vLLM computes other layers on a second stream",
    "latent_attention": "the model has latent attention, which vLLM may compute on several streams",
    "enable_sleep_mode": "sleep mode may discard what they keep on the GPU",
    "ubatching": "a step's rows may be computed in two parts",
    "context_parallel": "a step's rows are shared out between GPUs",
    "kv_sharing_fast_prefill": "kv_sharing_fast_prefill leaves rows of a step out of some layers",
    "additional_config": "additional_config is no dictionary, and cannot tell compiled graphs apart",
}
"""By what is in the way, why our kernels are not used at all."""


@dataclass(frozen=True)
class Facts:
    """Of an engine. `shapes`: its layers on one GPU; `in_the_way`: keys of `OBSTACLES`."""

    shapes: tuple[Shape, ...]
    max_loras: int
    max_rank: int
    dtype: torch.dtype
    lora_dtype: torch.dtype
    in_the_way: frozenset[str] = frozenset()


_verdicts: dict[Facts, Verdict] = {}


def choose(
    read: Callable[[], Facts], make_theirs: Callable[[int], Any], device: torch.device | str
) -> Verdict:
    """Whether to use our kernels, said once in the log with the reason. A failure is a no.

    `read` gives the facts of the engine; `make_theirs(rows)` makes vLLM's own wrapper for so many rows.
    """
    try:
        facts = read()
        if facts in _verdicts:
            return _verdicts[facts]
        why = objection(facts)
        verdict = Verdict(False, why, ()) if why else _check(facts, make_theirs, device)
        _verdicts[facts] = verdict
    except Exception as error:  # noqa: BLE001  # a start must not fail for want of the faster op
        verdict = Verdict(False, f"the choice failed: {type(error).__name__}: {error}", ())
    whose = "our Triton kernels" if verdict.use_ours else "vLLM's own kernels"
    compat.say(f"LoRA runs on {whose}, because {verdict.reason}")
    return verdict


def objection(facts: Facts) -> str:
    """Why our kernels cannot be used, whatever their speed; empty when nothing is known."""
    for name, why in OBSTACLES.items():
        if name in facts.in_the_way:
            return why
    if facts.lora_dtype != facts.dtype:
        return f"adapters are {facts.lora_dtype} and the model is {facts.dtype}"
    if facts.dtype not in DTYPES:
        return f"adapters are {facts.dtype}, which vLLM's kernels, to compare with, cannot do"
    if facts.max_rank > LARGEST_RANK:
        return f"max_lora_rank {facts.max_rank} is above {LARGEST_RANK}"
    if not facts.shapes:
        return "the model's config does not tell the sizes of its layers"
    return ""


def _check(facts: Facts, make_theirs: Callable[[int], Any], device: torch.device | str) -> Verdict:
    slots = min(facts.max_loras, MOST_SLOTS)
    with compat.forgetting_stacked_weights() as forget:
        verdict = choose_on_device(
            facts.shapes,
            slots,
            ranks_up_to(facts.max_rank),
            ROWS,
            vllm_side(facts.max_rank, make_theirs, forget),
            dtype=facts.dtype,
            device=device,
        )
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    return verdict


def ranks_up_to(largest: int) -> tuple[int, ...]:
    """The largest rank, then the powers of two below it that adapters commonly have."""
    return (largest, *(rank for rank in (256, 128, 64, 32, 16, 8) if rank < largest))


def vllm_side(max_rank: int, make_theirs: Callable[[int], Any], forget: Callable[[], None]) -> Side:
    """vLLM's side of a trial: adapters stacked at the largest rank, as its layers hold them.

    `forget` makes its operators forget the weights of the trial before, whose memory is free again.
    """

    def side(trial: Trial) -> Run:
        forget()
        theirs = make_theirs(len(trial.x))
        theirs.token_mapping_meta.prepare_tensors(
            torch.from_numpy(trial.plan.slots).to(trial.x.device)
        )
        a, b = _stack(trial, max_rank)
        return lambda y: theirs.add_lora_linear(y, trial.x, a, b, 1.0, trial.shape.out_features)

    return side


def _stack(
    trial: Trial, max_rank: int
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """By slice: A [slots, 1, max_rank, in] and B [slots, 1, out, max_rank], zero past a rank."""
    slots, x = len(trial.adapters), trial.x
    outs = trial.shape.out_features
    a = tuple(x.new_zeros(slots, 1, max_rank, trial.shape.in_features) for _ in outs)
    b = tuple(x.new_zeros(slots, 1, out, max_rank) for out in outs)
    for slot, adapter in enumerate(trial.adapters):
        for number, each in enumerate(adapter.slices):
            if each is not None:
                a[number][slot, 0, : each.rank] = each.a
                b[number][slot, 0, :, : each.rank] = each.b
    return a, b
