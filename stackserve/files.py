"""Files on disk: their hash, the certainty that the disk holds them, locks on them, and their end."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have the disk hold what was written to a file or folder, before a rename relies on it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, operation: int) -> Iterator[None]:
    """Hold a file's lock, `fcntl.LOCK_EX` or `LOCK_SH`, till the block or this process ends; the file is
    made if need be. Raises BlockingIOError with `LOCK_NB`, when another one holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, operation)
        yield
    finally:
        os.close(descriptor)


def retire(entry: Path, prefix: str) -> None:
    """Delete a file or folder, its name first: a crash leaves something that begins with `prefix` beside
    it, and never half of it under its name.
    """
    doomed = entry.with_name(f"{prefix}{os.urandom(8).hex()}")
    os.rename(entry, doomed)
    sync(entry.parent)
    remove(doomed)


def remove(entry: Path) -> None:
    """Delete what is there, if anything, with what is read-only in it, and nothing that it links to."""
    if entry.is_symlink() or not entry.is_dir():
        entry.unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError):  # another process deletes it, too
        os.chmod(entry, 0o700)
        for parent, folders, _ in os.walk(entry):
            for folder in folders:
                if not Path(parent, folder).is_symlink():
                    os.chmod(Path(parent, folder), 0o700)
    shutil.rmtree(entry, ignore_errors=True)
