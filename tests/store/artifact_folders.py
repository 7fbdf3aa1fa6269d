"""An artifact store and what is put into it: made, damaged, counted."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stackserve.errors import ArtifactRejected
from stackserve.store.archive import ArchiveLimits
from stackserve.store.artifacts import ArtifactStore, StoredArtifact
from tests.store.archives import zipped

FILES = {"adapter_config.json": b"{}", "weights/model.bin": bytes(range(256)) * 100}
OTHER = {"other.txt": b"other"}
LIMITS = ArchiveLimits(max_bytes=1 << 20, max_files=20)
NOBODY = 65534


def chunks(files: dict[str, bytes], size: int = 1000) -> Iterator[bytes]:
    content = zipped(files.items())
    for place in range(0, len(content), size):
        yield content[place : place + size]


def receive(store: ArtifactStore, files: dict[str, bytes] = FILES) -> StoredArtifact:
    with store.receive(chunks(files), LIMITS) as stored:
        return stored


def make(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def names(root: Path) -> set[str]:
    """What the store holds beside its locks."""
    return {path.name for path in root.iterdir() if not path.name.endswith(".lock")}


def damage(stored: StoredArtifact) -> None:
    path = stored.folder / "weights/model.bin"
    path.chmod(0o600)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(ArtifactRejected) as refusal:
        call()
    return refusal.value.code


def in_a_process(work: Callable[[], object]) -> int | None:
    """Its exit status; negative for the signal that killed it."""
    (status,) = in_processes(1, work)
    return status


def in_processes(count: int, work: Callable[[], object]) -> list[int | None]:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]
