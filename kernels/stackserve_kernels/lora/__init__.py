"""LoRA for batches that mix adapters: every row gets the delta of its own adapter, or none.

`reference` is the meaning, `plan` sorts a batch's rows once a step, `grouped` does the work in torch.
"""

from stackserve_kernels.lora.grouped import add_expand, add_lora, add_shrink, replace_rows
from stackserve_kernels.lora.plan import NO_ADAPTER, BatchPlan, Segment, plan_rows

__all__ = [
    "NO_ADAPTER",
    "BatchPlan",
    "Segment",
    "add_expand",
    "add_lora",
    "add_shrink",
    "plan_rows",
    "replace_rows",
]
