"""The torch architectures that a folder of safetensors may name: built in, or of other packages.

A package registers one as an entry point of the group `stackserve.torch_architectures`: a name, and a
callable that takes the arguments in architecture.json and gives a torch.nn.Module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any

import torch

from stackserve.runtimes.base import ModelRefused

GROUP = "stackserve.torch_architectures"

ACTIVATIONS: dict[str, Callable[[], Any]] = {
    "relu": torch.nn.ReLU,
    "gelu": torch.nn.GELU,
    "tanh": torch.nn.Tanh,
    "sigmoid": torch.nn.Sigmoid,
    "silu": torch.nn.SiLU,
}


def mlp(inputs: int, outputs: int, hidden: Sequence[int] = (), activation: str = "relu") -> Any:
    """Linear layers with an activation between them: 0.weight, 0.bias, 2.weight, …, as torch.nn.Sequential
    names them.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}, not one of {', '.join(ACTIVATIONS)}")
    layers: list[Any] = []
    width = inputs
    for following in hidden:
        layers += [torch.nn.Linear(width, following), ACTIVATIONS[activation]()]
        width = following
    return torch.nn.Sequential(*layers, torch.nn.Linear(width, outputs))


BUILT_IN: dict[str, Callable[..., Any]] = {"mlp": mlp}


def architecture(name: str) -> Callable[..., Any]:
    """Raises ModelRefused."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    registered = entry_points(group=GROUP)
    for entry in registered:
        if entry.name == name:
            return entry.load()  # type: ignore[no-any-return]
    known = ", ".join(sorted({*BUILT_IN, *(entry.name for entry in registered)}))
    raise ModelRefused(
        "architecture_unknown",
        f"architecture.json names {name!r}, and here are {known}; install the package that registers it "
        f"under the entry points {GROUP}",
    )
