"""Adapters on disk: written when a session first needs them, each with weights of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.adapter_folders import projections, write_adapter
from benchmarks.lora_tax.cells import Ranks
from stackserve.adapters import BaseArchitecture

SPARE_BYTES = 2**30


class DiskFull(Exception):
    """The adapters would not fit; the message says where and how much is missing."""


@dataclass
class Shelf:
    """Adapters of one base by ranks and number. Folders that are there are taken as they are."""

    folder: Path
    architecture: BaseArchitecture
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free

    def path(self, ranks: Ranks, number: int) -> Path:
        return self.folder / f"rank-{ranks.rank_of(number)}" / f"{number:05}"

    def fill(self, ranks: Ranks, numbers: Iterable[int]) -> None:
        """Write those that are missing. Raises DiskFull before anything is written."""
        missing = [n for n in sorted(set(numbers)) if not self.path(ranks, n).is_dir()]
        needed = sum(adapter_bytes(self.architecture, ranks.rank_of(n)) for n in missing)
        self.folder.mkdir(parents=True, exist_ok=True)
        free = self.free_bytes(self.folder)
        if needed + SPARE_BYTES > free:
            raise DiskFull(
                f"{len(missing)} adapters need {needed / 1e9:.1f} GB and 1 GiB to spare;"
                f" {self.folder} has {free / 1e9:.1f} GB"
            )
        for number in missing:
            self._write(self.path(ranks, number), ranks.rank_of(number), number)

    def remove(self, ranks: Ranks, number: int) -> None:
        shutil.rmtree(self.path(ranks, number))

    def size(self) -> tuple[int, int]:
        """How many adapters there are, and their bytes."""
        files = list(self.folder.glob("rank-*/*/adapter_model.safetensors"))
        return len(files), sum(file.stat().st_size for file in files)

    def forget_pages(self) -> None:
        """Let the kernel drop the weights from its page cache, so that reading them is reading a disk."""
        for file in self.folder.glob("rank-*/*/adapter_model.safetensors"):
            opened = os.open(file, os.O_RDONLY)
            try:
                os.fsync(opened)
                os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(opened)

    def _write(self, path: Path, rank: int, number: int) -> None:
        """It appears under its name when it is whole."""
        unfinished = path.with_name(f".{path.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        write_adapter(unfinished, self.architecture, rank, seed=number)
        unfinished.rename(path)


def adapter_bytes(architecture: BaseArchitecture, rank: int) -> int:
    """Weights of all seven projections in bf16."""
    return sum(2 * rank * (out + into) for out, into in projections(architecture).values())
