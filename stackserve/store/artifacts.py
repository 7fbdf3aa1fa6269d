"""The artifact store: read-only folders named by what is in them.

<root>/<digest>/manifest.json, files/…    files 0444, folders 0555
<root>/.new-…        what is being received
<root>/.removed-…    what is being deleted
<root>/.lock         held shared while receiving; who gets it alone may remove leftovers
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from stackserve.adapters.codes import Code
from stackserve.errors import ArtifactRejected
from stackserve.files import file_sha256, sync
from stackserve.store.archive import ArchiveLimits, unpack
from stackserve.store.manifest import Manifest, regular_files

DIGEST = re.compile(r"[0-9a-f]{64}")
NEW, REMOVED = ".new-", ".removed-"
FILES, MANIFEST = "files", "manifest.json"
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class StoredArtifact:
    digest: str
    manifest: Manifest
    folder: Path


class ArtifactStore:
    """Owns one folder of artifacts. Any number of processes may use the same folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def receive(
        self,
        chunks: Iterable[bytes],
        limits: ArchiveLimits,
        inspect: Callable[[Path], None] = lambda folder: None,
    ) -> Iterator[StoredArtifact]:
        """Keep the files of an archive that comes in pieces, if `inspect` does not raise for them.

        Until the block ends, `collect` waits: who refers to it by then need not fear for it. Whatever
        goes wrong before the block, nothing is kept. Raises ArtifactRejected.
        """
        with self._receiving() as room:
            archive = room / "archive"
            with archive.open("xb") as file:
                for chunk in chunks:
                    if file.tell() + len(chunk) > limits.max_bytes:
                        raise ArtifactRejected(
                            "archive_too_large",
                            f"the artifact is larger than {limits.max_bytes} bytes",
                        )
                    file.write(chunk)
            files = room / "artifact" / FILES
            files.mkdir(parents=True)
            unpack(archive, files, limits)
            archive.unlink()
            inspect(files)
            yield self._keep(room / "artifact")

    @contextmanager
    def add_folder(
        self, folder: Path, inspect: Callable[[Path], None] = lambda folder: None
    ) -> Iterator[StoredArtifact]:
        """As `receive`, a copy of a folder's files."""
        if not folder.is_dir():
            raise ArtifactRejected(
                Code.FOLDER_MISSING, f"{folder} is not a folder; give that of the model"
            )
        with self._receiving() as room:
            files = room / "artifact" / FILES
            files.mkdir(parents=True)
            for path in regular_files(folder):
                target = files / path.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target, follow_symlinks=False)
            inspect(files)
            yield self._keep(room / "artifact")

    def open(self, digest: str) -> StoredArtifact:
        """An artifact whose files are all there, by name and size. Raises ArtifactRejected."""
        folder = self._root / digest
        try:
            manifest = Manifest.from_json((folder / MANIFEST).read_bytes())
        except FileNotFoundError:
            raise ArtifactRejected(
                "artifact_not_stored", f"artifact {digest} is not in the store; upload it again"
            ) from None
        except (OSError, msgspec.MsgspecError) as error:
            raise _damaged(digest, MANIFEST, str(error)) from None
        if manifest.digest != digest:
            raise _damaged(digest, MANIFEST, "it is another artifact's")
        found = {
            path.relative_to(folder / FILES).as_posix(): path.lstat().st_size
            for path in regular_files(folder / FILES)
        }
        wanted = {file.path: file.size for file in manifest.files}
        for name in sorted(found.keys() ^ wanted.keys()):
            raise _damaged(digest, name, "it was added" if name in found else "it is missing")
        for name, size in wanted.items():
            if found[name] != size:
                raise _damaged(digest, name, f"it has {found[name]} bytes instead of {size}")
        return StoredArtifact(digest, manifest, folder / FILES)

    def verify(self, digest: str) -> StoredArtifact:
        """As `open`, and every byte is read. Raises ArtifactRejected."""
        stored = self.open(digest)
        for file in stored.manifest.files:
            if file_sha256(stored.folder / file.path) != file.sha256:
                raise _damaged(digest, file.path, "its bytes have changed")
        return stored

    def collect(self, referred: Callable[[], Collection[str]]) -> int:
        """Remove the artifacts that nobody refers to, and what crashes left; the bytes freed.

        Waits until nothing is being received, and asks then.
        """
        freed = 0
        with _writing():
            self._prepare()
            with self._lock(fcntl.LOCK_EX):
                keep = referred()
                for entry in sorted(self._root.iterdir()):
                    if DIGEST.fullmatch(entry.name) and entry.name not in keep:
                        freed += sum(path.lstat().st_size for path in regular_files(entry))
                        self._retire(entry)
                self._clear()
        return freed

    def _keep(self, made: Path) -> StoredArtifact:
        """Make it read-only, have the disk hold it, and give it its name."""
        manifest = Manifest.of(made / FILES)
        (made / MANIFEST).write_bytes(manifest.to_json())
        for path in regular_files(made):
            path.chmod(0o444)
            sync(path)
        for parent, _, _ in os.walk(made, topdown=False):
            os.chmod(parent, 0o555)
            sync(Path(parent))
        final = self._root / manifest.digest
        try:
            os.rename(made, final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            self._replace_if_damaged(made, manifest.digest)
        sync(self._root)
        return StoredArtifact(manifest.digest, manifest, final / FILES)

    def _replace_if_damaged(self, made: Path, digest: str) -> None:
        try:
            self.verify(digest)
        except ArtifactRejected:
            self._retire(self._root / digest)
            os.rename(made, self._root / digest)

    @contextmanager
    def _receiving(self) -> Iterator[Path]:
        """A private folder for what is received, gone afterwards."""
        with _writing():
            self._prepare()
            try:
                with self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB):
                    self._clear()
            except BlockingIOError:
                pass  # another one is received now, and the next may clear up
            with self._lock(fcntl.LOCK_SH):
                room = Path(tempfile.mkdtemp(prefix=NEW, dir=self._root))
                try:
                    yield room
                finally:
                    _remove(room)

    def _prepare(self) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _clear(self) -> None:
        for entry in self._root.iterdir():
            if entry.name.startswith((NEW, REMOVED)):
                _remove(entry)

    def _retire(self, entry: Path) -> None:
        """Take the name away first, so that a crash never leaves half an artifact under it."""
        doomed = self._root / f"{REMOVED}{os.urandom(8).hex()}"
        os.rename(entry, doomed)
        sync(self._root)
        _remove(doomed)

    @contextmanager
    def _lock(self, operation: int) -> Iterator[None]:
        descriptor = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, operation)
            yield
        finally:
            os.close(descriptor)


def _damaged(digest: str, name: str, what: str) -> ArtifactRejected:
    return ArtifactRejected(
        "artifact_damaged", f"artifact {digest}: {name}: {what}; upload it again as a new model"
    )


@contextmanager
def _writing() -> Iterator[None]:
    """Turn an error of the store's disk into a refusal."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise ArtifactRejected(
                Code.STORE_FULL, "the artifact store's disk is full; free space or delete models"
            ) from error
        raise ArtifactRejected(
            Code.STORE_UNWRITABLE,
            f"the artifact store cannot be written ({error.strerror}); check its disk and permissions",
        ) from error


def _remove(entry: Path) -> None:
    """Delete a folder, with what is read-only in it."""
    for parent, folders, _ in os.walk(entry):
        for folder in folders:
            os.chmod(Path(parent, folder), 0o700)
    if entry.is_dir():
        os.chmod(entry, 0o700)
    shutil.rmtree(entry, ignore_errors=True)
