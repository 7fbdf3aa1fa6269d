"""The compiled CPU kernels (`csrc/`), loaded once, with torch's own threads."""

from __future__ import annotations

import ctypes
import logging
from enum import IntEnum
from functools import cache
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

LIBRARY = Path(__file__).with_name("_cpu.so")


class InstructionSet(IntEnum):
    """What the kernels are compiled for, each faster than the one before."""

    AVX2 = 0
    AVX512 = 1
    AVX512_BF16 = 2
    AMX = 3


class CpuLibrary:
    """The C functions of `csrc/lora.cpp`. Raises OSError when there is no library to load."""

    def __init__(self, path: Path) -> None:
        functions = ctypes.CDLL(str(path))
        self._kernels = functions.stackserve_lora_kernels
        self._kernels.restype = ctypes.c_void_p
        self._kernels.argtypes = (ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
        self.add = functions.stackserve_lora_add
        self.add.restype = None
        rows = (ctypes.c_void_p, ctypes.c_int64)  # where, and bytes from one to the next
        self.add.argtypes = (ctypes.c_void_p, *rows, *rows, ctypes.c_void_p)
        self.linear = functions.stackserve_linear
        self.linear.restype = None
        self.linear.argtypes = (*(ctypes.c_void_p,) * 4, *rows, *rows, ctypes.c_int64)
        functions.stackserve_best_level.restype = ctypes.c_int64
        level = functions.stackserve_best_level()
        if level < 0:
            raise OSError("this CPU has no AVX2")
        self.best = InstructionSet(level)
        _use_threads_of_torch(functions)

    def kernels(self, upto: InstructionSet, dtype: torch.dtype, in_features: int) -> int | None:
        """The address of the best kernels for such a layer; None when there are none."""
        if dtype not in (torch.bfloat16, torch.float32):
            return None
        found: int | None = self._kernels(upto, dtype == torch.bfloat16, in_features)
        return found


@cache
def cpu_library() -> CpuLibrary | None:
    """The library, or None, said once, where the package was built without a compiler."""
    try:
        library = CpuLibrary(LIBRARY)
    except OSError as error:
        logger.warning(
            "stackserve: no compiled LoRA kernels (%s); torch computes adapters, slowly. "
            "Install a C++ compiler, then stackserve again",
            error,
        )
        return None
    return library


def kernels_in_use() -> str:
    """What computes adapters on this CPU, for the log."""
    library = cpu_library()
    if library is None:
        return "torch, slowly: there are no compiled kernels"
    return f"compiled kernels for {library.best.name.replace('_', ' with ')}"


def _use_threads_of_torch(functions: ctypes.CDLL) -> None:
    """Hand over torch's `parallel_for` (its stable C interface); without it one thread computes."""
    torch_functions = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    try:
        threads = [torch_functions.torch_parallel_for, torch_functions.torch_get_num_threads]
    except AttributeError:
        logger.warning("stackserve: torch %s lends no threads to kernels", torch.__version__)
        return
    functions.stackserve_use_threads.restype = None
    functions.stackserve_use_threads(*(ctypes.cast(f, ctypes.c_void_p) for f in threads))
