"""The LoRA pairs of an adapter: tensor names to modules, each with its A and its B."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from stackserve.adapters.codes import Code
from stackserve.adapters.folder import WEIGHTS_FILE
from stackserve.adapters.safetensors_file import TensorInfo
from stackserve.adapters.strict_json import shown
from stackserve.errors import ArtifactRejected

DTYPES = ("F32", "F16", "BF16")
TENSOR_NAME = re.compile(
    r"base_model\.model\.(?P<module>[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*)\."
    r"(?:lora_(?P<linear>[AB])\.weight|lora_embedding_(?P<embedding>[AB]))"
)
# PEFT saves these copies of the base beside a trained embedding, and vLLM ignores them.
BASE_COPIES = (".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")


@dataclass(frozen=True)
class LoraModule:
    """One trained module. `embedding`: A looks a token up instead of multiplying."""

    name: str
    embedding: bool
    a: TensorInfo
    b: TensorInfo


def lora_modules(tensors: Iterable[TensorInfo]) -> tuple[LoraModule, ...]:
    """Pair the tensors of an adapter; each must belong to a pair, with a dtype that is served."""
    halves: dict[tuple[str, bool], dict[str, TensorInfo]] = {}
    for tensor in tensors:
        module, embedding, side = _parse_name(tensor.name)
        if tensor.dtype not in DTYPES:
            raise ArtifactRejected(
                Code.DTYPE_UNSUPPORTED,
                f"{tensor.name} has the dtype {tensor.dtype}; save it as one of"
                f" {', '.join(DTYPES)}.",
            )
        halves.setdefault((module, embedding), {})[side] = tensor
    if not halves:
        raise ArtifactRejected(
            Code.WEIGHTS_EMPTY, f"{WEIGHTS_FILE} has 0 tensors; save the trained adapter again."
        )
    return tuple(
        _pair(module, embedding, sides) for (module, embedding), sides in sorted(halves.items())
    )


def _parse_name(name: str) -> tuple[str, bool, str]:
    match = TENSOR_NAME.fullmatch(name)
    if match is not None:
        side = match["linear"] or match["embedding"]
        return match["module"], match["embedding"] is not None, side
    if name.endswith(BASE_COPIES):
        raise ArtifactRejected(
            Code.BASE_WEIGHTS_IN_ADAPTER,
            f"{shown(name)} is a copy of the base's weights, which the engine would ignore;"
            " save the adapter with `save_embedding_layers=False`.",
        )
    raise ArtifactRejected(
        Code.TENSOR_NAME_INVALID,
        f"{shown(name)} in {WEIGHTS_FILE} is not the name of a LoRA tensor; names must be"
        " base_model.model.<module>.lora_A.weight or lora_B.weight, as PEFT saves them.",
    )


def _pair(module: str, embedding: bool, sides: dict[str, TensorInfo]) -> LoraModule:
    if sides.keys() != {"A", "B"}:
        missing = ({"A", "B"} - sides.keys()).pop()
        raise ArtifactRejected(
            Code.LORA_PAIR_INCOMPLETE,
            f"{shown(module)} has no lora_{'embedding_' if embedding else ''}{missing} tensor;"
            " save the adapter again with both tensors.",
        )
    return LoraModule(module, embedding, sides["A"], sides["B"])
