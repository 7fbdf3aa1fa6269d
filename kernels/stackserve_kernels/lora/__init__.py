"""LoRA for batches that mix adapters: every row gets the delta of its own adapter, or none.

`reference` is the meaning, `plan` sorts a batch's rows once a step, `weights` is the port of a layer.
`cpu` is the compiled op for CPUs, `grouped` the same in torch, `triton` the one for CUDA.
"""

from stackserve_kernels.lora.cpu import CpuLayer, make_layer
from stackserve_kernels.lora.grouped import (
    GroupedLayer,
    add_expand,
    add_shrink,
    add_stacked,
    replace_rows,
)
from stackserve_kernels.lora.library import InstructionSet, cpu_library, kernels_in_use
from stackserve_kernels.lora.linear import AmxLinear
from stackserve_kernels.lora.memory import WeightMemory
from stackserve_kernels.lora.plan import NO_ADAPTER, BatchPlan, Segment, plan_rows
from stackserve_kernels.lora.weights import LayerWeights, LoraLayer, PreparedWeights, SliceWeights

__all__ = [
    "NO_ADAPTER",
    "AmxLinear",
    "BatchPlan",
    "CpuLayer",
    "GroupedLayer",
    "InstructionSet",
    "LayerWeights",
    "LoraLayer",
    "PreparedWeights",
    "Segment",
    "SliceWeights",
    "WeightMemory",
    "add_expand",
    "add_shrink",
    "add_stacked",
    "cpu_library",
    "kernels_in_use",
    "make_layer",
    "plan_rows",
    "replace_rows",
]
