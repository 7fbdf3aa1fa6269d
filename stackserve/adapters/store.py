"""The adapter store: private, read-only copies of validated adapters, named by their digest.

<root>/<digest>/adapter_config.json, adapter_model.safetensors    files 0444, folder 0555
<root>/composites/<recipe>   a link to the digest of a composite that was built from this recipe
<root>/.import-…      a copy that is being validated
<root>/.removed-…     a copy that is being deleted
<root>/.imports.lock  held shared while importing; who gets it alone may remove leftovers
<root>/.publish.lock  held while a digest's name changes hands
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from stackserve.adapters.architecture import BaseArchitecture
from stackserve.adapters.codes import Code
from stackserve.adapters.composite import AdapterSource, Composite, build_composite
from stackserve.adapters.folder import (
    ADAPTER_FILES,
    CHUNK_BYTES,
    OpenAdapter,
    adapter_digest,
    check_size,
    digest_file,
    open_adapter,
    reading,
)
from stackserve.adapters.strict_json import shown
from stackserve.adapters.validate import validate_adapter
from stackserve.adapters.validated import AdapterLimits, ValidatedAdapter
from stackserve.errors import ArtifactRejected
from stackserve.files import locked, remove, retire, sync

DIGEST = re.compile(r"[0-9a-f]{64}")
IMPORTING, REMOVED = ".import-", ".removed-"
COMPOSITES = "composites"
FULL = (errno.ENOSPC, errno.EDQUOT)


class AdapterStore:
    """Owns one folder of adapters. Any number of processes may use the same folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def import_adapter(
        self, source: AdapterSource, base: BaseArchitecture, limits: AdapterLimits
    ) -> ValidatedAdapter:
        """Copy an adapter into the store, validate the copy, and keep it under its digest.

        What was checked is what is served: later changes of the source have no effect. A composite
        is built in the store; one that was built before is only validated again.
        """
        if isinstance(source, Composite):
            return self._import_composite(source, base, limits)
        with open_adapter(source, limits.max_bytes) as opened, _writing(opened.size):
            self._prepare()
            with self._importing(), self._private_folder() as copy:
                _copy_files(opened, copy, limits.max_bytes)
                return self._keep(copy, validate_adapter(copy, base, limits))

    def _import_composite(
        self, composite: Composite, base: BaseArchitecture, limits: AdapterLimits
    ) -> ValidatedAdapter:
        with _writing(composite.most_bytes):
            self._prepare()
            with self._importing():
                if built := self._built_before(composite.recipe, base, limits):
                    return built
                with self._private_folder() as copy:
                    adapter = build_composite(composite, copy, base, limits)
                    for name in ADAPTER_FILES:
                        os.chmod(copy / name, 0o444)
                        sync(copy / name)
                    adapter = self._keep(copy, adapter)
                    self._remember(composite.recipe, adapter.digest)
                    return adapter

    def _built_before(
        self, recipe: str, base: BaseArchitecture, limits: AdapterLimits
    ) -> ValidatedAdapter | None:
        """The stored composite of a recipe, if it is there, intact and within the limits."""
        with suppress(OSError, ArtifactRejected):
            digest = os.readlink(self._root / COMPOSITES / recipe)
            adapter = validate_adapter(self._folder(digest), base, limits)
            return adapter if adapter.digest == digest else None
        return None

    def _remember(self, recipe: str, digest: str) -> None:
        links = self._root / COMPOSITES
        links.mkdir(mode=0o700, exist_ok=True)
        fresh = links / f"{recipe}.{os.urandom(8).hex()}"
        os.symlink(digest, fresh)
        os.rename(fresh, links / recipe)

    def verify(self, digest: str) -> Path:
        """The folder of a stored adapter, after reading and hashing all of it."""
        folder = self._folder(digest)
        if not DIGEST.fullmatch(digest) or not os.path.lexists(folder):
            raise ArtifactRejected(
                Code.ADAPTER_NOT_STORED,
                f"The digest {shown(digest)} is not in the store; import the adapter again.",
            )
        if not _is_intact(folder, digest):
            raise ArtifactRejected(
                Code.ADAPTER_DAMAGED,
                f"The stored files of {digest} do not match their digest; import the adapter again.",
            )
        return folder

    def collect(self, keep: set[str]) -> int:
        """Remove the adapters whose digest is not in `keep`; the number of bytes freed.

        Waits until no import is running. An adapter imported but not yet in `keep` is removed too.
        """
        freed = 0
        with _writing(0):
            self._prepare()
            with self._lock(".imports.lock", fcntl.LOCK_EX):
                for entry in sorted(self._root.iterdir()):
                    if DIGEST.fullmatch(entry.name) and entry.name not in keep:
                        freed += _size(entry)
                        retire(entry, REMOVED)
                self._forget_removed()
        return freed

    def _forget_removed(self) -> None:
        """Remove the links to composites that are gone. No import may be running."""
        links = self._root / COMPOSITES
        for link in links.iterdir() if links.is_dir() else ():
            if not self._folder(os.readlink(link)).is_dir() or not DIGEST.fullmatch(link.name):
                link.unlink()

    def _folder(self, digest: str) -> Path:
        return self._root / digest

    def _prepare(self) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _lock(self, name: str, operation: int) -> AbstractContextManager[None]:
        return locked(self._root / name, operation)

    @contextmanager
    def _importing(self) -> Iterator[None]:
        """Mark an import as running; if no other one is, remove what a crash left behind."""
        try:
            with self._lock(".imports.lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
                for entry in self._root.iterdir():
                    if entry.name.startswith((IMPORTING, REMOVED)):
                        remove(entry)
        except BlockingIOError:
            pass
        with self._lock(".imports.lock", fcntl.LOCK_SH):
            yield

    @contextmanager
    def _private_folder(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(prefix=IMPORTING, dir=self._root))  # mkdtemp: mode 0700
        try:
            yield folder
        finally:
            remove(folder)

    def _keep(self, copy: Path, adapter: ValidatedAdapter) -> ValidatedAdapter:
        """Make a validated copy read-only, have the disk hold it, and give it its digest's name."""
        os.chmod(copy, 0o555)
        sync(copy)
        self._publish(copy, adapter.digest)
        return replace(adapter, folder=self._folder(adapter.digest))

    def _publish(self, copy: Path, digest: str) -> None:
        """Give `copy` its final name, unless an intact adapter has it already."""
        final = self._folder(digest)
        with self._lock(".publish.lock", fcntl.LOCK_EX):
            if os.path.lexists(final):
                if _is_intact(final, digest):
                    return
                retire(final, REMOVED)
            os.rename(copy, final)
            sync(self._root)


@contextmanager
def _writing(needed: int) -> Iterator[None]:
    """Turn an operating system error of the store's disk into a refusal."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise ArtifactRejected(
                Code.STORE_FULL,
                f"The store's disk is full and the adapter needs {needed} bytes;"
                " free space or remove adapters.",
            ) from error
        raise ArtifactRejected(
            Code.STORE_UNWRITABLE,
            f"The store cannot be written ({error.strerror}); check its disk and permissions.",
        ) from error


def _copy_files(opened: OpenAdapter, folder: Path, max_bytes: int) -> None:
    copied = 0
    for name, source in opened.by_name():
        target = os.open(
            folder / name,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW,
            0o600,
        )
        try:
            copied += _copy(source, target, name, max_bytes - copied)
            check_size(copied, max_bytes)
            os.fchmod(target, 0o444)
            os.fsync(target)
        finally:
            os.close(target)


def _copy(source: int, target: int, name: str, limit: int) -> int:
    """Copy up to one chunk more than `limit` bytes: a file may grow while it is read."""
    size = 0
    while size <= limit:
        with reading(name):
            chunk = os.pread(source, CHUNK_BYTES, size)
        if not chunk:
            break
        size += len(chunk)
        while chunk:
            chunk = chunk[os.write(target, chunk) :]
    return size


def _is_intact(folder: Path, digest: str) -> bool:
    """Whether a folder has exactly the two files, real ones, and they hash to `digest`."""
    try:
        with open_adapter(folder, max_bytes=1 << 62) as opened:
            names = set(os.listdir(folder))
            files = tuple(digest_file(fd, name) for name, fd in opened.by_name())
    except (ArtifactRejected, OSError):
        return False
    real = stat.S_ISDIR(os.lstat(folder).st_mode)
    return real and names == set(ADAPTER_FILES) and adapter_digest(files) == digest


def _size(entry: Path) -> int:
    """Bytes of the regular files of a stored adapter."""
    if not stat.S_ISDIR(os.lstat(entry).st_mode):
        return os.lstat(entry).st_size
    return sum(os.lstat(path).st_size for path in entry.iterdir())
