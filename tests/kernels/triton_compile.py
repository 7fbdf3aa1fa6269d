"""Compiles the Triton kernels for NVIDIA GPUs, which needs none; prints what each came to.

One line for each kernel: its name, dtype, compute capability, bytes spilled, and `wide` when global
memory is read 16 bytes at a time.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch
import triton
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from stackserve_kernels.lora import triton_kernels
from stackserve_kernels.lora.triton import TritonLayer

TOOL = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
STAGES = {"shrink": 3, "expand": 2}
POINTERS = {
    "shrink": {"x": "", "table": "i32", "entries": "i64", "most_tiles": "i32", "hidden": "fp32"},
    "expand": {"y": "", "table": "i32", "entries": "i64", "scales": "fp32", "columns": "i32", "hidden": "fp32"},
}  # fmt: skip


def compiled(name: str, dtype: str, capability: int) -> triton.compiler.CompiledKernel:
    """As a launch on a layer of Llama-8B's q/k/v compiles it."""
    layer = TritonLayer(4096, (4096, 1024, 1024), 8, torch.bfloat16, "cpu", max_rank=128)
    kernel = getattr(triton_kernels, name)
    constants = layer.constants[name] | {"WIDEN": False}
    pointers = {each: f"*{what or dtype}" for each, what in POINTERS[name].items()}
    signature = dict.fromkeys(kernel.arg_names, "i32") | pointers
    signature |= dict.fromkeys(constants, "constexpr")
    place = kernel.arg_names.index
    aligned = [*pointers, "x_stride" if name == "shrink" else "y_stride"]
    source = ASTSource(
        kernel,
        signature,
        {(place(each),): value for each, value in constants.items()},
        {(place(each),): [["tt.divisibility", 16]] for each in aligned},
    )
    options = {"num_warps": 4, "num_stages": STAGES[name]}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def spilled(cubin: bytes, folder: Path) -> int:
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    usage = subprocess.run(
        (TOOL, "-res-usage", file), capture_output=True, text=True, check=True
    ).stdout
    return sum(map(int, re.findall(r"(?:STACK|LOCAL):(\d+)", usage)))


if __name__ == "__main__":
    for capability in (80, 90):
        for dtype in ("bf16", "fp16", "fp32"):
            for name in STAGES:
                made = compiled(name, dtype, capability).asm
                wide = re.search(
                    r"cp\.async\.cg\.shared\.global \[[^,]*, \[[^,]*, 0x10", made["ptx"]
                )
                bytes_spilled = spilled(made["cubin"], Path(sys.argv[1]))
                print(name, dtype, capability, bytes_spilled, "wide" if wide else "narrow")
