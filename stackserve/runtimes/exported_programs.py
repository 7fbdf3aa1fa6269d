"""Metadata of exported programs, from their signatures, and their calls from tensors in order."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as trees

from stackserve.runtimes.base import Metadata, Model, ModelRefused, TensorSpec
from stackserve.runtimes.torch_model import TorchModel
from stackserve.runtimes.torch_tensors import BY_DTYPE


def exported_model(program: Any, file: str) -> Model:
    """Raises ModelRefused."""
    check_stateless(program, file)
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    in_spec, out_spec = program.call_spec.in_spec, program.call_spec.out_spec
    names = list(program.graph_signature.user_inputs)
    outputs = list(program.graph_signature.user_outputs)
    places = [place for place, name in enumerate(names) if is_tensor(values, name)]
    odd = [name for name in names if not is_tensor(values, name) and name is not None]
    odd += [name for name in outputs if not is_tensor(values, name)]
    if odd or not places:
        raise ModelRefused(
            "unsupported_signature",
            f"{file} takes or gives {str(odd[0])[:60] if odd else 'nothing'!r}, which is no tensor; export "
            "a module of tensors alone",
        )
    given = [names[place] for place in places]
    labels = output_names(out_spec, len(outputs))
    specs = [spec_of(name, values[name]) for name in given]
    results = [spec_of(label, values[name]) for label, name in zip(labels, outputs, strict=True)]
    batches = one_row_size([values[name] for name in (*given, *outputs)])
    metadata = Metadata("torch_export", tuple(specs), tuple(results), batches)
    module = program.module(check_guards=False)

    def run(tensors: list[Any]) -> list[Any]:
        flat: list[Any] = [None] * len(names)
        for place, tensor in zip(places, tensors, strict=True):
            flat[place] = tensor
        args, kwargs = trees.tree_unflatten(flat, in_spec)
        return list(trees.tree_leaves(module(*args, **kwargs)))

    return TorchModel(metadata, run, [values[name].dtype for name in given])


def check_stateless(program: Any, file: str) -> None:
    """Refuse a program that changes its weights or inputs: its answers would depend on who asked before.
    That is seen only once the program is functional.
    """
    signature = program.run_decompositions({}).graph_signature
    changed = [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]
    if changed:
        raise ModelRefused(
            "stateful_model",
            f"the program in {file} changes {changed[0]!r} when it is asked; call model.eval() and export "
            "it again",
        )


def is_tensor(values: dict[str, Any], name: Any) -> bool:
    return isinstance(name, str) and isinstance(values.get(name), torch.Tensor)


def output_names(spec: Any, count: int) -> list[str]:
    """The keys of a dictionary of tensors; else output, or output_0 and so on."""
    if spec.type is dict and spec.num_children == count:
        return [str(key) for key in spec.context]
    return ["output"] if count == 1 else [f"output_{place}" for place in range(count)]


def spec_of(name: str, value: Any) -> TensorSpec:
    if value.dtype not in BY_DTYPE:
        raise ModelRefused(
            "unsupported_datatype",
            f"the tensor {name!r} is of {value.dtype}, which the protocol does not know; convert it in the "
            "module and export again",
        )
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return TensorSpec(name, BY_DTYPE[value.dtype], shape)


def one_row_size(values: list[Any]) -> bool:
    """Whether all tensors have the same number of rows, and that any. That rows do not depend on each
    other cannot be seen in a signature; a module of which it is not true must be exported with a fixed
    number of them.
    """
    rows = {str(value.shape[0]) if value.dim() else "" for value in values}
    return len(rows) == 1 and not any(
        value.dim() == 0 or isinstance(value.shape[0], int) for value in values
    )
