"""The base of a group in memory: its model, its tokenizer, and what its files say of answering."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

SAMPLING_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""What a base's generation_config.json says of these holds where a request says nothing, as in vLLM."""

LENGTH_FIELDS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
LENGTH_WITHOUT_A_FIELD = 2048

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


class BaseUnusable(Exception):
    """The base cannot be served here; the message says why."""


@dataclass(frozen=True)
class Foundation:
    """`max_model_len` counts prompt and answer, in tokens; `ends` are the tokens that end an answer."""

    model: Any
    tokenizer: Any
    max_model_len: int
    ends: frozenset[int]
    defaults: Mapping[str, float]
    device: torch.device

    @property
    def vocabulary(self) -> int:
        """Tokens that the model knows, which may be more than the tokenizer's."""
        return int(self.model.get_input_embeddings().num_embeddings)


def load_foundation(folder: Path, dtype: str, max_model_len: int | None) -> Foundation:
    """Read a base in Hugging Face's layout, safetensors alone, and run none of its code.

    Raises BaseUnusable.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    local: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(folder, **local)
        model = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=DTYPES.get(dtype, "auto"), use_safetensors=True, **local
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
    except (ValueError, OSError, ImportError, KeyError) as error:
        raise BaseUnusable(f"transformers cannot load the base: {error}") from error
    model = model.to(device).eval().requires_grad_(False)
    longest = _longest(config, tokenizer)
    if max_model_len is not None and max_model_len > longest:
        raise BaseUnusable(
            f"max_model_len is {max_model_len}, and the base takes {longest} tokens; lower it"
        )
    return Foundation(
        model,
        tokenizer,
        max_model_len or longest,
        _ends(model, tokenizer),
        _defaults(model),
        device,
    )


def _longest(config: Any, tokenizer: Any) -> int:
    text = config.get_text_config()
    found = [value for name in LENGTH_FIELDS if isinstance(value := getattr(text, name, None), int)]
    if found:
        return int(found[0])
    # A tokenizer that knows no limit says 10^30.
    return min(int(tokenizer.model_max_length), LENGTH_WITHOUT_A_FIELD)


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    told = model.generation_config.eos_token_id
    told = told if isinstance(told, list) else [told]
    return frozenset(int(each) for each in (*told, tokenizer.eos_token_id) if each is not None)


def _defaults(model: Any) -> dict[str, float]:
    told = model.generation_config.to_diff_dict()
    return {name: told[name] for name in SAMPLING_DEFAULTS if told.get(name) is not None}
