"""The operators that a compiled graph sees in place of a layer: `stackserve::…`.

They are opaque to the compiler, and find the layer by its number: what it holds changes from step to
step, the graph does not. `add_lora_of` takes the number as a tensor on the host, so that it is no part
of the graph: the pieces of all of a model's layers are then alike, and compiled once.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any, Protocol

import torch


class Linear(Protocol):
    """What the number of a linear operator stands for: [..., in] → [..., out_features]."""

    out_features: int

    def compute(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor: ...


class Adding(Protocol):
    """What the number of an adding operator stands for."""

    def add(self, y: torch.Tensor, x: torch.Tensor) -> None: ...


_numbers = itertools.count()
_layers: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def register(layer: Any) -> int:
    """A number for `layer`, for as long as somebody holds the layer."""
    number = next(_numbers)
    _layers[number] = layer
    return number


def _linear(x: torch.Tensor, bias: torch.Tensor | None, number: int) -> torch.Tensor:
    layer: Linear = _layers[number]
    return layer.compute(x, bias)


def _linear_shape(x: torch.Tensor, bias: torch.Tensor | None, number: int) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], _layers[number].out_features)


def _add_lora(y: torch.Tensor, x: torch.Tensor, number: int) -> None:
    layer: Adding = _layers[number]
    layer.add(y, x)


def _add_lora_of(y: torch.Tensor, x: torch.Tensor, number: torch.Tensor) -> None:
    layer: Adding = _layers[int(number)]
    layer.add(y, x)


def _nothing(y: torch.Tensor, x: torch.Tensor, number: Any) -> None:
    return None


_library = torch.library.Library("stackserve", "FRAGMENT")
for _schema, _run, _fake in (
    ("linear(Tensor x, Tensor? bias, int number) -> Tensor", _linear, _linear_shape),
    ("add_lora(Tensor(a!) y, Tensor x, int number) -> ()", _add_lora, _nothing),
    ("add_lora_of(Tensor(a!) y, Tensor x, Tensor number) -> ()", _add_lora_of, _nothing),
):
    _name = _schema.partition("(")[0]
    _library.define(_schema)
    for _device in ("CPU", "CUDA"):
        _library.impl(_name, _run, _device)
    _library._register_fake(_name, _fake)

linear = torch.ops.stackserve.linear
add_lora = torch.ops.stackserve.add_lora
add_lora_of = torch.ops.stackserve.add_lora_of
