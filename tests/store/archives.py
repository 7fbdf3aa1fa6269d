"""Archives for tests, honest and hostile, made in memory."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

Files = Iterable[tuple[str, bytes]]


def zipped(files: Files, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return out.getvalue()


def tarred(files: Files, mode: str = "w") -> bytes:
    return tarred_of(((_member(name, len(content)), content) for name, content in files), mode)


def tarred_of(members: Iterable[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return member


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """A tar entry that is a link, a device, a pipe or a folder."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def header(name: str, kind: bytes, size: int) -> bytes:
    """One tar header that claims a size, with nothing behind it."""
    member = _member(name, 0)
    member.type = kind
    block = bytearray(member.tobuf(tarfile.USTAR_FORMAT))
    if size < 0:  # as GNU tar writes large and negative numbers
        block[124:136] = size.to_bytes(12, "big", signed=True)
    else:
        block[124:136] = b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def read(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
