"""What an artifact consists of: its files, and the digest that names them all."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import msgspec

from stackserve.errors import ArtifactRejected
from stackserve.files import file_sha256


class ArtifactFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`path` is relative, with `/`."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The files of an artifact, by path."""

    files: tuple[ArtifactFile, ...]

    @classmethod
    def of(cls, folder: Path) -> Manifest:
        """Read every file below a folder. Raises ArtifactRejected for what is no regular file."""
        files = (
            ArtifactFile(
                path.relative_to(folder).as_posix(), path.stat().st_size, file_sha256(path)
            )
            for path in regular_files(folder)
        )
        return cls(tuple(sorted(files, key=lambda file: file.path)))

    @classmethod
    def from_json(cls, content: bytes) -> Manifest:
        """Raises msgspec.MsgspecError."""
        return cls(msgspec.json.decode(content, type=tuple[ArtifactFile, ...]))

    def to_json(self) -> bytes:
        """The one way to write it: equal files, equal bytes."""
        return msgspec.json.encode(self.files)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.to_json()).hexdigest()

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)


def regular_files(folder: Path) -> list[Path]:
    """Every file below a folder. Raises ArtifactRejected for links, devices and the like, and for names
    that no archive and no page could show.
    """
    found = []
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent, name)
            if not name.isprintable():
                raise ArtifactRejected(
                    "artifact_unsafe_name",
                    f"{name!r} has unprintable characters or is no UTF-8; rename it",
                )
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                found.append(path)
            elif not stat.S_ISDIR(mode):
                raise ArtifactRejected(
                    "artifact_not_regular",
                    f"{path.relative_to(folder)} is a link or a special file; an artifact has "
                    "regular files only, so put the file itself there",
                )
    return found
