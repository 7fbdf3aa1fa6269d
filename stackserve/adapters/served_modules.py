"""Which modules of which architectures vLLM 0.32 applies LoRA to under their own names.

vLLM drops tensors of a module that it does not find, and answers as the base. So only
architectures whose names in the checkpoint and in vLLM were compared are listed here.
"""

from __future__ import annotations

from dataclasses import dataclass

from stackserve.adapters.architecture import BaseArchitecture
from stackserve.adapters.codes import Code
from stackserve.adapters.strict_json import shown
from stackserve.errors import ArtifactRejected

SPLIT = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FUSED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


@dataclass(frozen=True)
class ServedModules:
    """Last parts of the module names: Linear layers, and the input and output embeddings."""

    linear: tuple[str, ...]
    embeddings: tuple[str, ...] = ()

    def serves(self, module: str) -> bool:
        return module.rpartition(".")[2] in self.linear + self.embeddings


# The embeddings are vLLM's `embedding_modules` of each model class.
EMBEDDINGS = ("embed_tokens", "lm_head")
SERVED = {
    "LlamaForCausalLM": ServedModules(SPLIT, EMBEDDINGS),
    "MistralForCausalLM": ServedModules(SPLIT),
    "Qwen2ForCausalLM": ServedModules(SPLIT),
    "Qwen3ForCausalLM": ServedModules(SPLIT, EMBEDDINGS),
    "GemmaForCausalLM": ServedModules(SPLIT),
    "Gemma2ForCausalLM": ServedModules(SPLIT),
    "Gemma3ForCausalLM": ServedModules(SPLIT),
    "GraniteForCausalLM": ServedModules(SPLIT, EMBEDDINGS),
    "Phi3ForCausalLM": ServedModules(FUSED, EMBEDDINGS),
}


def served_modules(base: BaseArchitecture) -> ServedModules:
    """The modules of a base that adapters may change."""
    served = SERVED.get(base.architecture)
    if served is None:
        raise ArtifactRejected(
            Code.BASE_ARCHITECTURE_UNSUPPORTED,
            f"The base's architecture is {shown(base.architecture)}, on which no adapters are"
            f" served; use one of {', '.join(SERVED)}.",
        )
    return served
