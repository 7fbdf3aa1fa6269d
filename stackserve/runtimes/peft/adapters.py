"""One adapter as a model of its own: the base's modules copied without their weights, PEFT's among them.

Each adapter has its own tree of modules, in which every tensor of the base is the base's own. So PEFT
sees one adapter alone whatever the kinds of the others, and nothing is switched between requests.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import load_peft_weights

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
NAME = "default"
PREFIX = "base_model.model."
INSIDE = (".lora_", ".hada_", ".lokr_", ".ia3_", ".oft_", ".hra_", ".ln_tuning_")
"""In a tensor's name, what follows the module that was chosen by `target_modules`."""

MOST_NAMED = 5


class AdapterRefused(Exception):
    """The adapter cannot be served on this base; the message says why."""


def load_adapter(base: Any, folder: Path, device: torch.device) -> Any:
    """The base with the adapter in `folder`, ready to generate; the base itself stays as it is.

    PEFT passes over tensors that it does not expect, and starts at random those that it misses. Here
    either is refused, before a single tensor is written. Raises AdapterRefused.
    """
    try:
        return _load(base, folder, device)
    except AdapterRefused:
        raise
    except Exception as error:  # whatever the frameworks raise at files that are wrong
        raise AdapterRefused(f"{type(error).__name__}: {error}") from error


def _load(base: Any, folder: Path, device: torch.device) -> Any:
    if not (folder / WEIGHTS_FILE).is_file():
        raise AdapterRefused(f"{WEIGHTS_FILE} is missing")
    tree = shared_copy(base)
    mapping = getattr(tree, "_checkpoint_conversion_mapping", {})
    tensors = load_peft_weights(str(folder), device=str(device), key_mapping=mapping)
    config = _config(folder, tensors)
    if getattr(config, "bias", "none") != "none":
        _own_biases(tree)
    adapted = PeftModel(tree, config, NAME)
    # With the tensors given, PEFT does not warn of those that it mistakes for broken ones.
    expected = get_peft_model_state_dict(
        adapted, state_dict=adapted.state_dict(), save_embedding_layers=False
    )
    _check_fit(tensors, expected)
    set_peft_model_state_dict(adapted, tensors, adapter_name=NAME)
    return adapted.to(device).eval().requires_grad_(False).get_base_model()


def shared_copy(model: Any) -> Any:
    """A copy of the modules that shares every parameter and buffer with the original."""
    shared = {id(each): each for each in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def _own_biases(tree: Any) -> None:
    """An adapter with trained biases writes them into the base's: here, into copies."""
    for module in tree.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if "bias" in name:
                setattr(module, name, torch.nn.Parameter(parameter.clone(), requires_grad=False))


def _config(folder: Path, tensors: Mapping[str, torch.Tensor]) -> PeftConfig:
    """The configuration, with modules chosen by name alone: an expression may take for ever."""
    fields = json.loads((folder / CONFIG_FILE).read_text())
    fields |= {"inference_mode": True, "base_model_name_or_path": None, "auto_mapping": None}
    if "init_lora_weights" in fields:  # what it begins with is overwritten, and may be costly
        fields["init_lora_weights"] = True
    if isinstance(fields.get("target_modules"), str):
        fields |= {"target_modules": _modules_of(tensors), "exclude_modules": None}
    return PeftConfig.from_peft_type(**fields)


def _modules_of(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    found = set()
    for name in tensors:
        for inside in INSIDE:
            module, has_it, _ = name.removeprefix(PREFIX).partition(inside)
            if has_it:
                found.add(module)
    return sorted(found)


def _check_fit(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    if extra := tensors.keys() - expected.keys():
        raise AdapterRefused(f"its configuration on this base has no place for {_named(extra)}")
    if missing := expected.keys() - tensors.keys():
        raise AdapterRefused(f"it lacks {_named(missing)}, which its configuration asks for")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            wanted, has = list(expected[name].shape), list(tensor.shape)
            raise AdapterRefused(f"{name} has the shape {has} where the base needs {wanted}")


def _named(names: Any) -> str:
    first = sorted(names)
    more = len(first) - MOST_NAMED
    return ", ".join(first[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
