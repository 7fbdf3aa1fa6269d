"""Which SavedModels may be read: those whose operations neither leave the process nor read files.

A SavedModel is a program for TensorFlow. Its operations can read and write any file, reach other hosts
and call Python, and some run while it is loaded. Operations with state are read only if they are listed
here; of those without, the ones that touch files anyway are refused.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

from stackserve.runtimes.base import ModelRefused

STATEFUL = {
    "AnonymousHashTable", "AnonymousMutableDenseHashTable", "AnonymousMutableHashTable",
    "AnonymousMutableHashTableOfTensors", "Assert", "AssignAddVariableOp", "AssignSubVariableOp",
    "AssignVariableOp", "Case", "CheckNumerics", "CheckNumericsV2", "DeepCopy", "DestroyResourceOp",
    "DisableCopyOnRead", "Empty", "GuaranteeConst", "HashTableV2", "If", "InitializeTableV2",
    "LookupTableExportV2", "LookupTableFindV2", "LookupTableImportV2", "LookupTableInsertV2",
    "LookupTableRemoveV2", "LookupTableSizeV2", "Multinomial", "MutableDenseHashTableV2",
    "MutableHashTableOfTensorsV2", "MutableHashTableV2", "NonDeterministicInts", "RandomGamma",
    "RandomPoissonV2", "RandomShuffle", "RandomStandardNormal", "RandomUniform", "RandomUniformInt",
    "ReadVariableOp", "ResourceGather", "ResourceGatherNd", "RngReadAndSkip", "RngSkip",
    "StatefulPartitionedCall", "StatefulStandardNormalV2", "StatefulTruncatedNormal",
    "StatefulUniform", "StatefulUniformInt", "StatelessRandomGetAlg", "TensorArrayCloseV3",
    "TensorArrayConcatV3", "TensorArrayGatherV3", "TensorArrayReadV3", "TensorArrayScatterV3",
    "TensorArraySizeV3", "TensorArraySplitV3", "TensorArrayV3", "TensorArrayWriteV3",
    "TruncatedNormal", "VarHandleOp", "VarIsInitializedOp", "VariableShape", "While",
}  # fmt: skip
"""Operations with state that keep it in memory."""
OUTSIDE = re.compile(
    r"File|Dataset|Iterator|Reader|PyFunc|Debug|ImmutableConst|Vocab|Remap|T[Pp][Uu]|DTensor|Mlir|Proto"
    r"|XlaLaunch|XlaCustom|Collective|Nccl|Rpc|Remote|Summary|Save|Restore|Checkpoint|Abort|BatchFunction"
    r"|Queue|Barrier|^_?(Host)?(Send|Recv)|^Copy|^MatchingFiles$"
)
"""Of operations without state. A Proto operation reads its descriptor from a file."""
SAVER = frozenset({"SaveV2", "RestoreV2", "MergeV2Checkpoints", "ShardedFilename"})
"""In two functions of every SavedModel, which its own loader does not call."""


def check_saved_model(content: bytes, name: str) -> None:
    """Raises ModelRefused."""
    graph = meta_graph(content, name)
    library = {function.signature.name: function for function in graph.graph_def.library.function}
    called = called_names(graph, library)
    places: list[tuple[str, Any, frozenset[str]]] = [
        ("its graph", graph.graph_def.node, frozenset())
    ]
    for function in library.values():
        hidden = function.signature.name not in called and not any(
            key.startswith("api_") for key in function.attr
        )
        allowed = SAVER if hidden else frozenset[str]()
        places.append((f"its function {function.signature.name}", function.node_def, allowed))
    for place, nodes, allowed in places:
        for node in nodes:
            if node.op not in allowed and not is_inside(node.op, library):
                raise ModelRefused(
                    "unsafe_operation",
                    f"{name} has the operation {node.op[:60]} in {place[:80]}, which is not among those known to "
                    "stay inside the process; save a signature without it, or set allow_unsafe_formats if "
                    "you made the model yourself",
                )


def meta_graph(content: bytes, name: str) -> Any:
    """The only one there is. Raises ModelRefused."""
    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString(content)
    except DecodeError as error:
        raise ModelRefused(
            "model_unreadable",
            f"saved_model.pb of {name} is damaged; save the model again with tf.saved_model.save",
        ) from error
    # TensorFlow runs other models than these as version 1 did: the whole graph, its saver included.
    if len(saved.meta_graphs) != 1 or not saved.meta_graphs[0].HasField("object_graph_def"):
        raise ModelRefused(
            "unsupported_model",
            f"{name} is no SavedModel of TensorFlow 2; save the model again with its tf.saved_model.save",
        )
    return saved.meta_graphs[0]


def is_inside(operation: str, library: Container[str]) -> bool:
    """Whether an operation neither leaves the process nor reads files, or is a function, which is checked
    itself. A function may not have an operation's name: which of them is meant would be TensorFlow's to say.
    """
    definition = op_def_registry.get(operation)
    if definition is None:
        return operation in library
    if operation in library or OUTSIDE.search(operation):
        return False
    return not definition.is_stateful or operation in STATEFUL


def called_names(graph: Any, library: dict[str, Any]) -> set[str]:
    """The functions that an object of the model, a signature or another function can call."""
    objects = graph.object_graph_def
    names = set(objects.concrete_functions)
    for node in objects.nodes:
        names |= set(node.function.concrete_functions)
        names.add(node.bare_concrete_function.concrete_function_name)
    for function in library.values():
        names |= set(references(function.node_def))
        names |= {call.name for value in function.attr.values() for call in functions_in(value)}
    names |= {gradient.gradient_func for gradient in graph.graph_def.library.gradient}
    return names


def references(nodes: Iterable[Any]) -> Iterator[str]:
    for node in nodes:
        yield node.op
        for value in node.attr.values():
            yield from (call.name for call in functions_in(value))


def functions_in(value: Any) -> list[Any]:
    return [value.func, *value.list.func]
