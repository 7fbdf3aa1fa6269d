"""A torch module that is loaded and says what it takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch

from stackserve.runtimes.base import BadInput, Metadata, Model, Tensors, first_line
from stackserve.runtimes.torch_tensors import array_of, tensor_of


class TorchModel(Model):
    """A module and how its results are named."""

    def __init__(
        self, metadata: Metadata, run: Callable[[list[Any]], list[Any]], dtypes: list[Any]
    ) -> None:
        self.metadata = metadata
        self.run = run
        self.dtypes = dtypes

    def infer(self, inputs: Tensors, wanted: Collection[str]) -> Tensors:
        given = [
            tensor_of(inputs[spec.name], dtype)
            for spec, dtype in zip(self.metadata.inputs, self.dtypes, strict=True)
        ]
        try:
            with torch.inference_mode():
                results = self.run(given)
        except (IndexError, ValueError, TypeError, AssertionError, RuntimeError) as error:
            if "allocate" in str(error):
                raise
            raise BadInput(f"the model cannot compute this: {first_line(error)}") from error
        if len(results) != len(self.metadata.outputs):
            raise RuntimeError(
                f"the model gave {len(results)} tensors, and {len(self.metadata.outputs)} are declared"
            )
        named = zip(self.metadata.outputs, results, strict=True)
        return {
            spec.name: array_of(result, spec.datatype)
            for spec, result in named
            if spec.name in wanted
        }
