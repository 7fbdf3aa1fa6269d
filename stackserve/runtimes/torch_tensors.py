"""numpy's arrays as torch's tensors and back, and how many threads torch uses."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from stackserve.runtimes.datatypes import DATATYPES

BY_DTYPE: dict[Any, str] = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8", torch.uint16: "UINT16", torch.uint32: "UINT32", torch.uint64: "UINT64",
    torch.int8: "INT8", torch.int16: "INT16", torch.int32: "INT32", torch.int64: "INT64",
    torch.float16: "FP16", torch.float32: "FP32", torch.float64: "FP64",
    torch.bfloat16: "FP32",
}  # fmt: skip
"""The protocol's names. numpy has no bfloat16, so it travels as FP32, which loses nothing."""


def tensor_of(array: np.ndarray[Any, Any], dtype: Any = None) -> Any:
    """A tensor of an array, which is copied where torch could write to what may not be written."""
    if not (array.flags.writeable and array.flags.c_contiguous):
        array = np.array(array, order="C")
    tensor = torch.from_numpy(array)
    return tensor if dtype is None else tensor.to(dtype)


def array_of(tensor: Any, datatype: str | None = None) -> np.ndarray[Any, Any]:
    """An array of a tensor, of the protocol's datatype if one is given."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    array: np.ndarray[Any, Any] = tensor.detach().cpu().numpy()
    return array if datatype is None else array.astype(DATATYPES[datatype], copy=False)


def use_threads(count: int) -> None:
    """The number is the process's: all models of a worker have the same."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
