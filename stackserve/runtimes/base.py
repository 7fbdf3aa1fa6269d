"""The runtime port: what a framework must do to be served. docs/runtimes.md shows a complete one.

A runtime lives in a worker process of its own. Its models are loaded and unloaded in any thread, several
at once; one model may be asked in several threads at once, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the gateway reads this module, too, and has no use for numpy
    import numpy.typing as npt

    Tensors = dict[str, npt.NDArray[Any]]
else:
    Tensors = dict[str, Any]
"""By name. A BYTES tensor is an array of objects, each of them `bytes`."""


class ModelRefused(Exception):
    """The files are no model that can be served here. `code` is stable; the message says what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class BadInput(Exception):
    """A request's tensors are not what the model takes; the message names the tensor."""


def first_line(error: Exception) -> str:
    """Of what a framework says, for a message of the two above."""
    return str(error).strip().partition("\n")[0][:300]


@dataclass(frozen=True)
class ModelFiles:
    """What a model is made of. `options` are the member's, as written in the group."""

    folder: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    """That one request may use."""
    allow_unsafe: bool = False
    """Formats that can run code when they are read may be read."""


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that a model takes or gives: its name, its datatype as the Open Inference Protocol calls
    it (FP32, INT64, BYTES, …), and its shape, where -1 is any size.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Metadata:
    """What is told of a model. With `batches`, the first dimension of every tensor counts rows that do
    not depend on each other, so that rows of several requests may be computed together.
    """

    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batches: bool = True


class Model(ABC):
    """A loaded model."""

    metadata: Metadata

    @abstractmethod
    def infer(self, inputs: Tensors, wanted: Collection[str]) -> Tensors:
        """The wanted outputs. The inputs have the names, datatypes and shapes of the metadata; they may
        be read-only. Raises BadInput where that is not enough.
        """

    def close(self) -> None:  # noqa: B027  # few models have anything to do here
        """Let go of what Python's memory management does not see."""


class Runtime(ABC):
    """Loads the models of one framework."""

    @abstractmethod
    def estimate(self, files: ModelFiles) -> int:
        """The bytes of host memory that the model will take, rather too many than too few, without
        loading it. Raises ModelRefused.
        """

    @abstractmethod
    def load(self, files: ModelFiles) -> Model:
        """Raises ModelRefused; whatever else it raises is told as a failure of this model."""
