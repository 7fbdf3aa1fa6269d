"""Compiles the CPU kernels: hatchling calls it when the package is built or installed from a clone.

Without a compiler, or on another CPU than x86-64, the package is built without them and serves with
torch. `python kernels/build_hook.py` compiles them in place.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LORA = Path(__file__).resolve().parent / "stackserve_kernels" / "lora"
SOURCES = LORA / "csrc"
LIBRARY = LORA / "_cpu.so"

FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall",
         "-Wextra", "-Werror", "-Wno-maybe-uninitialized")  # fmt: skip  # gcc's own headers trip the last
AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma")
AMX = (*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16")
OBJECTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "lora": ("lora.cpp", ()),
    "cpu_features": ("cpu_features.cpp", ()),
    "avx2": ("kernels_avx2.cpp", ("-mavx2", "-mfma")),
    "avx512": ("kernels_avx512.cpp", AVX512),
    "avx512_bf16": ("kernels_avx512.cpp", (*AVX512, "-mavx512bf16")),
    "amx": ("kernels_amx.cpp", AMX),
    "linear": ("linear.cpp", ()),
    "linear_amx": ("linear_amx.cpp", AMX),
}
"""Object → source and the instructions that it may use; the library chooses at run time."""


class CannotCompileError(Exception):
    """Says in one sentence why there will be no compiled kernels."""


def compile_library(library: Path) -> None:
    """Write the shared library, or raise CannotCompileError. Replaces an old one in one step."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise CannotCompileError("the CPU kernels are for Linux on x86-64")
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise CannotCompileError("there is no C++ compiler (Debian and Ubuntu: apt install g++)")
    with TemporaryDirectory(dir=library.parent) as folder:
        objects = [Path(folder) / f"{name}.o" for name in OBJECTS]
        commands = [
            [compiler, *FLAGS, *flags, "-c", str(SOURCES / source), "-o", str(target)]
            for target, (source, flags) in zip(objects, OBJECTS.values(), strict=True)
        ]
        with ThreadPoolExecutor() as pool:
            list(pool.map(_run, commands))
        linked = Path(folder) / library.name
        statics = ("-static-libgcc", "-static-libstdc++")
        _run([compiler, "-shared", *statics, "-o", str(linked), *map(str, objects)])
        linked.replace(library)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotCompileError(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        said = (errors or done.stderr.splitlines() or ["no output"])[0]
        raise CannotCompileError(f"the C++ compiler failed: {said.strip()}")


class KernelsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the library into the wheel, which is then for this platform alone."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        try:
            compile_library(LIBRARY)
        except CannotCompileError as reason:
            LIBRARY.unlink(missing_ok=True)
            self.app.display_warning(f"no compiled CPU kernels, torch will serve: {reason}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-linux_x86_64"
        build_data["artifacts"].append(f"/{LIBRARY.relative_to(self.root).as_posix()}")


if __name__ == "__main__":
    try:
        compile_library(LIBRARY)
    except CannotCompileError as reason:
        sys.exit(f"stackserve: {reason}")
