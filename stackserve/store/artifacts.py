"""The artifact store: read-only folders named by what is in them.

<root>/<digest>/manifest.json, files/…    files 0444, folders 0555
<root>/.new-…        what is being received
<root>/.removed-…    what is being deleted
<root>/.lock         held shared while receiving; who gets it alone may remove leftovers
<root>/.naming.lock  held while an artifact gets its name
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from stackserve.adapters.codes import Code
from stackserve.errors import ArtifactRejected
from stackserve.files import file_sha256, locked, remove, retire, sync
from stackserve.store.archive import ArchiveCode, ArchiveLimits, unpack
from stackserve.store.manifest import Manifest, regular_files

DIGEST = re.compile(r"[0-9a-f]{64}")
NEW, REMOVED = ".new-", ".removed-"
FILES, MANIFEST = "files", "manifest.json"
ALL, NAMING = ".lock", ".naming.lock"
FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def _writing() -> Iterator[None]:
    """Turn an error of the store's disk into a refusal."""
    try:
        yield
    except BlockingIOError:  # a lock is another's, which is no fault of the disk
        raise
    except OSError as error:
        if error.errno in FULL:
            raise ArtifactRejected(
                Code.STORE_FULL, "the artifact store's disk is full; free space or delete models"
            ) from error
        raise ArtifactRejected(
            Code.STORE_UNWRITABLE,
            f"the artifact store cannot be written ({error.strerror}); check its disk and permissions",
        ) from error


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
            archive, files = room / "archive", room / FILES
            _write(chunks, archive, limits.max_bytes)
            with _writing():
                files.mkdir()
                unpack(archive, files, limits)
                archive.unlink()
            inspect(files)
            yield self._keep(room)

    @contextmanager
    def add_folder(
        self, folder: Path, inspect: Callable[[Path], None] = lambda folder: None
    ) -> Iterator[StoredArtifact]:
        """As `receive`, a copy of a folder's files."""
        if not folder.is_dir():
            raise ArtifactRejected(
                Code.FOLDER_MISSING, f"{folder} is not a folder; give that of the model"
            )
        paths = regular_files(folder)
        if not paths:
            raise ArtifactRejected(
                ArchiveCode.EMPTY, f"{folder} has no files; give the folder of the model"
            )
        with self._receiving() as room:
            files = room / FILES
            for path in paths:
                _copy(path, files / path.relative_to(folder))
            inspect(files)
            yield self._keep(room)

    def open(self, digest: str) -> StoredArtifact:
        """An artifact whose files are all there, by name and size. Raises ArtifactRejected."""
        folder = self._root / digest
        if not DIGEST.fullmatch(digest) or not folder.is_dir():
            raise ArtifactRejected(
                "artifact_not_stored", f"artifact {digest} is not in the store; upload it again"
            )
        try:
            manifest = Manifest.from_json((folder / MANIFEST).read_bytes())
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
            try:
                found = file_sha256(stored.folder / file.path)
            except OSError as error:
                raise _damaged(digest, file.path, f"it cannot be read ({error.strerror})") from None
            if found != file.sha256:
                raise _damaged(digest, file.path, "its bytes have changed")
        return stored

    def collect(self, referred: Callable[[], Collection[str]]) -> int:
        """Remove the artifacts that nobody refers to, and what crashes left; the bytes freed.

        Waits until nothing is being received, and asks then.
        """
        self._prepare()
        with self._lock(ALL, fcntl.LOCK_EX):
            return self._remove_except(referred())

    @_writing()
    def _remove_except(self, keep: Collection[str]) -> int:
        freed = 0
        for entry in sorted(self._root.iterdir()):
            if DIGEST.fullmatch(entry.name) and entry.name not in keep:
                freed += _size(entry)
                retire(entry, REMOVED)
        self._clear()
        return freed

    @_writing()
    def _keep(self, made: Path) -> StoredArtifact:
        """Make it read-only, have the disk hold it, and give it its name.

        `made` lies in the root: an ordinary user cannot move a read-only folder into another one.
        """
        manifest = Manifest.of(made / FILES)
        (made / MANIFEST).write_bytes(manifest.to_json())
        for path in regular_files(made):
            path.chmod(0o444)
            sync(path)
        for parent, _, _ in os.walk(made, topdown=False):
            os.chmod(parent, 0o555)
            sync(Path(parent))
        with self._lock(NAMING, fcntl.LOCK_EX):
            return self._name(made, manifest)

    def _name(self, made: Path, manifest: Manifest) -> StoredArtifact:
        final = self._root / manifest.digest
        if os.path.lexists(final):
            with suppress(ArtifactRejected):  # it is damaged, and this one takes its place
                return self.verify(manifest.digest)
            retire(final, REMOVED)
        os.rename(made, final)
        sync(self._root)
        return StoredArtifact(manifest.digest, manifest, final / FILES)

    @contextmanager
    def _receiving(self) -> Iterator[Path]:
        """A private folder for what is received, gone afterwards."""
        self._prepare()
        try:
            with self._lock(ALL, fcntl.LOCK_EX | fcntl.LOCK_NB):
                self._clear()
        except BlockingIOError:
            pass  # another one is received now, and the next may clear up
        with self._lock(ALL, fcntl.LOCK_SH):
            room = self._room()
            try:
                yield room
            finally:
                with suppress(OSError):  # what stays is cleared by the next one
                    remove(room)

    @_writing()
    def _room(self) -> Path:
        return Path(tempfile.mkdtemp(prefix=NEW, dir=self._root))

    @_writing()
    def _prepare(self) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)

    @_writing()
    def _clear(self) -> None:
        for entry in self._root.iterdir():
            if entry.name.startswith((NEW, REMOVED)):
                remove(entry)

    @contextmanager
    def _lock(self, name: str, operation: int) -> Iterator[None]:
        with ExitStack() as held:
            with _writing():
                held.enter_context(locked(self._root / name, operation))
            yield


def _damaged(digest: str, name: str, what: str) -> ArtifactRejected:
    return ArtifactRejected(
        "artifact_damaged", f"artifact {digest}: {name}: {what}; upload it again as a new model"
    )


def _write(chunks: Iterable[bytes], archive: Path, most: int) -> None:
    """Unbuffered, so that a full disk is seen here; errors of who sends the chunks stay their own."""
    written = 0
    with archive.open("xb", buffering=0) as file:
        for chunk in chunks:
            if written + len(chunk) > most:
                raise ArtifactRejected(
                    ArchiveCode.TOO_LARGE, f"the artifact is larger than {most} bytes"
                )
            left = memoryview(chunk)
            while left:
                with _writing():
                    count = file.write(left)
                written, left = written + count, left[count:]


@_writing()
def _copy(source: Path, target: Path) -> None:
    if not os.access(source, os.R_OK):  # else it would be taken for an error of the store's disk
        raise ArtifactRejected(
            Code.FILE_UNREADABLE, f"{source} cannot be read; check its permissions"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target, follow_symlinks=False)


def _size(entry: Path) -> int:
    """Bytes of what is not a folder, whatever became of it."""
    return sum(
        Path(parent, name).lstat().st_size for parent, _, names in os.walk(entry) for name in names
    )
