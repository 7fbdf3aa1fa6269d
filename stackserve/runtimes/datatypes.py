"""The datatypes of the Open Inference Protocol, and numpy's of the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8), "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32), "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8), "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32), "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16), "FP32": np.dtype(np.float32), "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}  # fmt: skip
"""numpy's types by the protocol's names."""

NAMES = {dtype: name for name, dtype in DATATYPES.items()}


def objects(values: list[Any]) -> np.ndarray[Any, Any]:
    """An array of these very objects, in one dimension: numpy alone would make text of bytes."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
