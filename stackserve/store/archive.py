"""Archives of artifacts: unpacked with suspicion, and written so that equal files give equal bytes."""

from __future__ import annotations

import errno
import gzip
import io
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import IO, cast

from stackserve.errors import ArtifactRejected

CHUNK = 1 << 20
BLOCK = 512
"""Of a tar file: its headers, and what pads them."""
MOST_READ = 16 << 20
MOST_NAME_BYTES, MOST_PATH_BYTES = 255, 1024
JUNK = ("__MACOSX/", "._", ".DS_Store")
FIRST_DAY = (1980, 1, 1, 0, 0, 0)
ZIP_STARTS, GZIP_STARTS = (b"PK\3\4", b"PK\5\6"), b"\x1f\x8b"
BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    struct.error,
    ArithmeticError,
    LookupError,
    RuntimeError,  # also for what zipfile has not implemented, and headers nested without end
    ValueError,
)
"""What zipfile and tarfile raise for bytes that nobody has checked."""


class ArchiveCode(StrEnum):
    """Why an archive was refused."""

    UNKNOWN = "archive_unknown_format"
    BROKEN = "archive_broken"
    EMPTY = "archive_empty"
    ENCRYPTED = "archive_encrypted"
    UNSAFE_NAME = "archive_unsafe_name"
    DUPLICATE = "archive_duplicate_name"
    NOT_A_FILE = "archive_not_a_file"
    TOO_LARGE = "archive_too_large"
    TOO_MANY_FILES = "archive_too_many_files"


@dataclass(frozen=True)
class ArchiveLimits:
    """Of what is unpacked: what a header claims is not believed."""

    max_bytes: int = 512 << 30
    max_files: int = 10_000


def unpack(archive: Path, into: Path, limits: ArchiveLimits) -> None:
    """Unpack a zip, tar or tar.gz file, known by its first bytes, into an empty folder.

    A single folder around everything is left out. Raises ArtifactRejected, and then `into` may hold a
    part of it; and OSError when the disk fails.
    """
    unpacking = _Unpacking(into, limits)
    try:
        with archive.open("rb") as file:
            _unpack(file, unpacking, limits)
    except BROKEN as error:
        raise _broken(error) from None
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # of the disk, not of gzip or a seek to nowhere
            raise
        raise _broken(error) from None
    if not unpacking.names:
        raise ArtifactRejected(ArchiveCode.EMPTY, "the archive has no files; put the model into it")
    _strip_single_folder(into)


def _unpack(file: IO[bytes], unpacking: _Unpacking, limits: ArchiveLimits) -> None:
    start = file.read(4)
    file.seek(0)
    most = limits.max_bytes + limits.max_files * 8 * BLOCK + MOST_READ
    if start in ZIP_STARTS:
        _unpack_zip(_Suspect(file, most), unpacking)
    elif start.startswith(GZIP_STARTS):
        with gzip.open(file) as plain:
            _unpack_tar(_Suspect(cast(IO[bytes], plain), most), unpacking)
    else:
        _unpack_tar(_Suspect(file, most), unpacking)


def _broken(error: Exception) -> ArtifactRejected:
    return ArtifactRejected(
        ArchiveCode.BROKEN,
        f"the archive is broken ({str(error)[:128]}); make it anew and send it again",
    )


class _Suspect:
    """An archive that is read in bounded pieces, and only so far, whatever its headers claim."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file = file
        self._most = most
        self.last = b""
        """What was read last."""
        self.tell, self.seekable = file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        self.last = self._file.read(min(size, MOST_READ + 1) if size >= 0 else MOST_READ + 1)
        if len(self.last) > MOST_READ:
            raise ValueError(f"it has a header of more than {MOST_READ} bytes")
        self._check(self._file.tell())
        return self.last

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET:
            self._check(place)  # before a gzip file of zeros is read up to there
        return self._file.seek(place, whence)

    def _check(self, place: int) -> None:
        if place > self._most:
            raise ArtifactRejected(
                ArchiveCode.TOO_LARGE, f"unpacked, the archive is larger than {self._most} bytes"
            )


class _Unpacking:
    """The folder that is filled, and how much is in it."""

    def __init__(self, into: Path, limits: ArchiveLimits) -> None:
        self.names: set[str] = set()
        self._into = into
        self._limits = limits
        self._entries = self._written = 0

    def count(self) -> None:
        """One more entry, of whatever kind. Raises ArtifactRejected."""
        self._entries += 1
        if self._entries > self._limits.max_files:
            raise ArtifactRejected(
                ArchiveCode.TOO_MANY_FILES,
                f"the archive has more than {self._limits.max_files} files and folders; leave out "
                "what the model does not need",
            )

    def take(self, name: str, content: IO[bytes]) -> None:
        """Write a file. Raises ArtifactRejected."""
        path = _safe(name)
        if any(part.startswith(JUNK) or f"{part}/" in JUNK for part in path.parts):
            return
        folded = str(path).casefold()
        if folded in self.names:
            raise ArtifactRejected(
                ArchiveCode.DUPLICATE, f"the archive has {name!r} twice; keep one of them"
            )
        self.names.add(folded)
        target = self._into / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                self._copy(content, file)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise ArtifactRejected(
                ArchiveCode.DUPLICATE,
                f"{name!r} is a file and a folder in the archive; rename one of them",
            ) from None

    def _copy(self, content: IO[bytes], file: IO[bytes]) -> None:
        while chunk := content.read(CHUNK):
            self._written += len(chunk)
            if self._written > self._limits.max_bytes:
                raise ArtifactRejected(
                    ArchiveCode.TOO_LARGE,
                    f"unpacked, the archive is larger than {self._limits.max_bytes} bytes",
                )
            file.write(chunk)


def _safe(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    unsafe = (
        path.is_absolute()
        or not path.parts
        or ".." in path.parts
        or "\\" in name
        or ":" in path.parts[0]
        or any(not character.isprintable() for character in name)
        or any(len(part.encode(errors="replace")) > MOST_NAME_BYTES for part in path.parts)
        or len(name.encode(errors="replace")) > MOST_PATH_BYTES
    )
    if unsafe:
        raise ArtifactRejected(
            ArchiveCode.UNSAFE_NAME,
            f"the archive has an entry {name[:128]!r}; names must be short, printable, and stay inside "
            "the archive's own folder",
        )
    return path


def _unpack_zip(archive: _Suspect, unpacking: _Unpacking) -> None:
    with zipfile.ZipFile(cast(IO[bytes], archive)) as opened:
        for entry in opened.infolist():
            unpacking.count()
            _safe(entry.filename)
            kind = entry.external_attr >> 28
            if entry.flag_bits & 1:
                raise ArtifactRejected(
                    ArchiveCode.ENCRYPTED,
                    f"{entry.filename!r} is encrypted; send it without a password",
                )
            if entry.create_system == 3 and kind not in (0, 8, 4):
                raise _not_a_file(entry.filename)
            if entry.is_dir():
                continue
            with opened.open(entry) as content:
                unpacking.take(entry.filename, content)


def _unpack_tar(archive: _Suspect, unpacking: _Unpacking) -> None:
    try:
        opened = tarfile.TarFile(fileobj=cast(IO[bytes], archive))
    except tarfile.ReadError:
        raise ArtifactRejected(
            ArchiveCode.UNKNOWN,
            "the artifact is not a zip, tar or tar.gz file; send one of them",
        ) from None
    with opened:
        for entry in opened:
            unpacking.count()
            if entry.isdir():
                if PurePosixPath(entry.name).parts:
                    _safe(entry.name)
                continue
            content = opened.extractfile(entry) if entry.isreg() else None
            if content is None:
                raise _not_a_file(entry.name)
            with content:
                unpacking.take(entry.name, content)
    # tarfile takes a damaged header for the end, and reads no gzip file up to its checksum.
    if archive.last != bytes(BLOCK):
        raise tarfile.ReadError("its end is missing")
    while archive.read(CHUNK):
        pass


def _not_a_file(name: str) -> ArtifactRejected:
    return ArtifactRejected(
        ArchiveCode.NOT_A_FILE,
        f"{name[:128]!r} is a link or a device in the archive; put the file itself there",
    )


def _strip_single_folder(into: Path) -> None:
    entries = list(into.iterdir())
    if len(entries) == 1 and entries[0].is_dir():
        shell = entries[0].rename(into / f".{os.urandom(8).hex()}")  # no name that is inside
        for entry in list(shell.iterdir()):
            entry.rename(into / entry.name)
        shell.rmdir()


def zip_size(sizes: Iterable[tuple[str, int]]) -> int:
    """How many bytes `zip_of` makes of files with these names and sizes, without reading them.

    By the layout that zipfile writes where it cannot seek: every entry has Zip64 sizes behind it.
    """
    place = central = count = 0
    for name, size in sizes:
        label = len(name.encode())
        large = [size, size] if size > zipfile.ZIP64_LIMIT else []
        if place > zipfile.ZIP64_LIMIT:
            large.append(place)
        place += 30 + label + 20 + size + 24
        count += 1
        central += 46 + label + (4 + 8 * len(large) if large else 0)
    zip64 = place > zipfile.ZIP64_LIMIT or count > zipfile.ZIP_FILECOUNT_LIMIT
    return place + central + 22 + (76 if zip64 else 0)


def zip_of(files: Iterable[tuple[str, Path | bytes]]) -> Iterator[bytes]:
    """A zip of files, or of bytes, under these names, in pieces of some MiB: not compressed, since weights
    do not shrink, and the same bytes each time.
    """
    out = _Pieces()
    with zipfile.ZipFile(cast(IO[bytes], out), "w", zipfile.ZIP_STORED) as archive:
        for name, source in files:
            entry = zipfile.ZipInfo(name, FIRST_DAY)
            entry.external_attr = 0o644 << 16
            opened = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
            with archive.open(entry, "w", force_zip64=True) as target, opened:
                while chunk := opened.read(CHUNK):
                    target.write(chunk)
                    yield out.take()
            yield out.take()
    yield out.take()


class _Pieces:
    """A file that can only be written on, whose bytes are taken away as they come."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._taken = 0

    def write(self, data: bytes) -> int:
        self._held += data
        return len(data)

    def tell(self) -> int:
        return self._taken + len(self._held)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        piece = bytes(self._held)
        self._taken += len(piece)
        self._held.clear()
        return piece
