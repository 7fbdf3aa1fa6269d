"""Archives: what is unpacked, what is refused and why, and how they are written."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import random
import resource
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from stackserve.errors import ArtifactRejected
from stackserve.store import archive as archive_module
from stackserve.store.archive import (
    ArchiveCode,
    ArchiveLimits,
    unpack,
    zip_of,
    zip_size,
)
from stackserve.store.manifest import Manifest
from tests.store.archives import header, read, special, tarred, tarred_of, zipped

LIMITS = ArchiveLimits(max_bytes=1 << 20, max_files=20)
FILES = {"config.json": b"{}", "weights/model.bin": bytes(range(256)) * 40, "empty": b""}
END = bytes(2 * 512)

Unpack = Callable[..., dict[str, bytes]]


@pytest.fixture
def unpacked(tmp_path: Path) -> Unpack:
    """Unpack these bytes into a new folder; its files."""

    def unpacked(content: bytes, limits: ArchiveLimits = LIMITS) -> dict[str, bytes]:
        (tmp_path / "upload").write_bytes(content)
        into = tmp_path / "into" / os.urandom(4).hex()
        into.mkdir(parents=True)
        try:
            unpack(tmp_path / "upload", into, limits)
        finally:
            assert {path.name for path in tmp_path.iterdir()} == {"upload", "into"}
            assert not [path for path in into.rglob("*") if path.is_symlink()]
        return read(into)

    return unpacked


@pytest.fixture
def refusal(unpacked: Unpack) -> Callable[..., ArtifactRejected]:
    def refusal(content: bytes, limits: ArchiveLimits = LIMITS) -> ArtifactRejected:
        with pytest.raises(ArtifactRejected) as caught:
            unpacked(content, limits)
        assert caught.value.message.isprintable()
        assert len(caught.value.message) < 400
        return caught.value

    return refusal


MAKERS: dict[str, Callable[[list[tuple[str, bytes]]], bytes]] = {
    "zip": zipped,
    "stored zip": lambda files: zipped(files, zipfile.ZIP_STORED),
    "tar": tarred,
    "tar.gz": lambda files: tarred(files, "w:gz"),
}
every_format = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@every_format
def test_files_come_out_as_they_went_in(unpacked: Unpack, make: Any) -> None:
    assert unpacked(make(list(FILES.items()))) == FILES


@every_format
def test_one_folder_around_everything_is_left_out_once(unpacked: Unpack, make: Any) -> None:
    assert unpacked(make([(f"my-adapter/{name}", FILES[name]) for name in FILES])) == FILES
    assert unpacked(make([("a/b/c.txt", b"c")])) == {"b/c.txt": b"c"}
    assert unpacked(make([("a/a/c.txt", b"c"), ("a/.x/c", b"")])) == {"a/c.txt": b"c", ".x/c": b""}


@every_format
def test_what_macos_adds_is_skipped(unpacked: Unpack, make: Any) -> None:
    junk = ["__MACOSX/._a.txt", ".DS_Store", "model/.DS_Store", "model/._a.txt"]
    assert unpacked(make([(name, b"junk") for name in junk] + [("model/a.txt", b"a")])) == {
        "a.txt": b"a"
    }


@every_format
@pytest.mark.parametrize("names", [[], [".DS_Store"]], ids=["nothing", "junk"])
def test_an_archive_without_files_is_refused(refusal: Any, make: Any, names: list[str]) -> None:
    assert refusal(make([(name, b"") for name in names])).code == ArchiveCode.EMPTY


def test_an_archive_of_folders_alone_is_refused(refusal: Any) -> None:
    folders = [(special(name, tarfile.DIRTYPE), b"") for name in (".", "a", "a/b")]
    assert refusal(tarred_of(folders)).code == ArchiveCode.EMPTY
    assert refusal(zipped([("a/", b""), ("a/b/", b"")])).code == ArchiveCode.EMPTY


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"just text",
        b"PK",
        b"7z\xbc\xaf\x27\x1c" + bytes(600),
        b"Rar!\x1a\x07\x01\x00" + bytes(600),
        bz2.compress(tarred(FILES.items())),
        lzma.compress(tarred(FILES.items())),
        gzip.compress(b"a text of more than one block " * 100),
        b"#!/bin/sh\n" + bytes(600) + zipped(FILES.items()),
    ],
    ids=["none", "zero", "text", "PK", "7z", "rar", "bz2", "xz", "gz", "behind a script"],
)
def test_another_format_is_refused(refusal: Any, content: bytes) -> None:
    refused = refusal(content)
    assert refused.code == ArchiveCode.UNKNOWN
    assert "zip, tar or tar.gz" in refused.message


def test_a_tar_that_holds_a_zip_is_a_tar(unpacked: Unpack) -> None:
    inner = zipped([("inside", b"")], zipfile.ZIP_STORED)
    assert unpacked(tarred([("a.zip", inner), ("b", b"")])) == {"a.zip": inner, "b": b""}


HOSTILE = (
    "/etc/passwd",
    "//server/share",
    "../outside",
    "a/../../outside",
    "a/..",
    "..",
    "C:\\Windows\\x",
    "C:x",
    "c:/x",
    "a\\..\\..\\x",
    "back\\slash",
    "new\nline",
    "escape\x1b[31m",
    "bell\x07",
    "right-to-left\u202e",
    "n" * 256,
    "ä" * 128,
    "a/" * 600 + "deep",
)


@every_format
@pytest.mark.parametrize("name", HOSTILE, ids=[ascii(name[:20]) for name in HOSTILE])
def test_a_name_that_leads_elsewhere_or_cannot_be_shown_is_refused(
    refusal: Any, make: Any, name: str
) -> None:
    assert refusal(make([("good", b""), (name, b"evil")])).code == ArchiveCode.UNSAFE_NAME


@pytest.mark.parametrize("name", ["..", "../up", "/abs", "a/../../b"])
def test_a_folder_elsewhere_is_refused_too(refusal: Any, name: str) -> None:
    member = special(name, tarfile.DIRTYPE)
    assert refusal(tarred_of([(member, b"")])).code == ArchiveCode.UNSAFE_NAME
    assert refusal(zipped([(f"{name}/", b"")])).code == ArchiveCode.UNSAFE_NAME


def test_a_zip_entry_without_a_name_is_refused(refusal: Any) -> None:
    assert refusal(zipped([("x", b"")]).replace(b"x", b"")).code == ArchiveCode.BROKEN
    empty = io.BytesIO()
    with zipfile.ZipFile(empty, "w") as archive:
        entry = zipfile.ZipInfo("x")
        entry.filename = ""
        archive.writestr(entry, b"")
    assert refusal(empty.getvalue()).code == ArchiveCode.UNSAFE_NAME


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.SYMTYPE, "good"),
        (tarfile.LNKTYPE, "/etc/passwd"),
        (tarfile.LNKTYPE, "good"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
    ],
)
def test_a_link_or_device_in_a_tar_is_refused(refusal: Any, kind: bytes, target: str) -> None:
    refused = refusal(
        tarred_of([(tarfile.TarInfo("good"), b""), (special("odd", kind, target), b"")])
    )
    assert refused.code == ArchiveCode.NOT_A_FILE
    assert "'odd'" in refused.message


def test_a_file_below_a_link_is_not_written_through_it(refusal: Any, tmp_path: Path) -> None:
    link = special("dir", tarfile.SYMTYPE, str(tmp_path))
    file = tarfile.TarInfo("dir/evil")
    assert refusal(tarred_of([(link, b""), (file, b"")])).code == ArchiveCode.NOT_A_FILE


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o010666], ids=["link", "device", "pipe"])
def test_a_link_or_device_in_a_zip_is_refused(refusal: Any, mode: int) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        entry = zipfile.ZipInfo("odd")
        entry.create_system, entry.external_attr = 3, mode << 16
        archive.writestr(entry, b"/etc/passwd")
    assert refusal(out.getvalue()).code == ArchiveCode.NOT_A_FILE


@every_format
@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "names",
    [
        ("a", "a"),
        ("a", "./a"),
        ("d/a", "d//a"),
        ("README", "readme"),
        ("straße", "STRASSE"),
        ("a", "a/b"),
        ("a/b", "a"),
    ],
)
def test_two_entries_for_one_place_are_refused(
    refusal: Any, make: Any, names: tuple[str, str]
) -> None:
    assert refusal(make([(name, b"") for name in names])).code == ArchiveCode.DUPLICATE


def test_an_encrypted_zip_is_refused(refusal: Any) -> None:
    content = bytearray(zipped([("secret", b"bytes")]))
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    refused = refusal(bytes(content))
    assert refused.code == ArchiveCode.ENCRYPTED
    assert "'secret'" in refused.message


@every_format
def test_unpacked_bytes_are_counted_and_not_believed(
    refusal: Any, unpacked: Any, make: Any
) -> None:
    exactly = ArchiveLimits(max_bytes=1000)
    assert unpacked(make([("a", bytes(500)), ("b", bytes(500))]), exactly)
    refused = refusal(make([("a", bytes(500)), ("b", bytes(501))]), exactly)
    assert refused.code == ArchiveCode.TOO_LARGE
    assert "1000 bytes" in refused.message


@pytest.mark.parametrize("make", [zipped, MAKERS["tar.gz"]], ids=["zip", "tar.gz"])
def test_a_bomb_is_stopped_before_it_fills_the_disk(
    refusal: Any, make: Any, tmp_path: Path
) -> None:
    bomb = make([("zeros", bytes(64 << 20))])
    assert len(bomb) < 100_000
    assert refusal(bomb).code == ArchiveCode.TOO_LARGE
    written = sum(path.stat().st_size for path in (tmp_path / "into").rglob("zeros"))
    assert written <= LIMITS.max_bytes


def test_a_zip_entry_that_points_into_another_one_is_refused(refusal: Any) -> None:
    content = bytearray(zipped([("a", bytes(400)), ("b", b"")], zipfile.ZIP_STORED))
    place = content.rindex(b"PK\1\2") + 42
    content[place : place + 4] = bytes(4)
    assert refusal(bytes(content)).code == ArchiveCode.BROKEN


@every_format
def test_too_many_files_are_refused(refusal: Any, unpacked: Any, make: Any) -> None:
    limits = ArchiveLimits(max_files=3)
    assert len(unpacked(make([(str(n), b"") for n in range(3)]), limits)) == 3
    assert refusal(make([(str(n), b"") for n in range(4)]), limits).code == (
        ArchiveCode.TOO_MANY_FILES
    )


def test_folders_and_junk_count_as_files_do(refusal: Any) -> None:
    limits = ArchiveLimits(max_files=3)
    folders = [(special(str(n), tarfile.DIRTYPE), b"") for n in range(4)]
    assert refusal(tarred_of(folders), limits).code == ArchiveCode.TOO_MANY_FILES
    junk = [(f"{n}/.DS_Store", b"") for n in range(4)]
    assert refusal(zipped(junk), limits).code == ArchiveCode.TOO_MANY_FILES


@every_format
def test_a_truncated_archive_is_refused_wherever_it_ends(refusal: Any, make: Any) -> None:
    whole = make([(name, random.Random(name).randbytes(2000)) for name in ("a", "b", "c")])
    content = whole if whole[:2] == b"\x1f\x8b" else whole.rstrip(b"\0")
    for end in {*range(4, len(content), 97), *range(512, len(content), 512), len(content) - 1}:
        assert refusal(whole[:end]).code in (ArchiveCode.BROKEN, ArchiveCode.UNKNOWN), end


@pytest.mark.parametrize("make", [zipped, MAKERS["stored zip"], MAKERS["tar.gz"]])
def test_a_changed_byte_is_found_by_the_checksum(refusal: Any, make: Any) -> None:
    content = bytearray(make([("a", random.Random(0).randbytes(4000))]))
    content[2000] ^= 1
    assert refusal(bytes(content)).code == ArchiveCode.BROKEN


def test_a_wrong_checksum_at_the_end_of_a_gzip_file_is_found(refusal: Any) -> None:
    content = bytearray(tarred(FILES.items(), "w:gz"))
    content[-8] ^= 1
    assert refusal(bytes(content)).code == ArchiveCode.BROKEN


def test_a_damaged_header_does_not_end_a_tar_early(refusal: Any) -> None:
    content = bytearray(tarred([("a", b"a"), ("b", b"b"), ("c", b"c")]))
    content[1024] ^= 1  # the name of the second file
    assert refusal(bytes(content)).code == ArchiveCode.BROKEN


@pytest.mark.parametrize(
    "content",
    [
        header("p", tarfile.XHDTYPE, 32 << 20) + bytes(32 << 20),
        header("l", tarfile.GNUTYPE_LONGNAME, 32 << 20) + bytes(32 << 20),
        header("p", tarfile.XHDTYPE, 0) * 5000 + tarred([("a", b"")]),
        header("l", tarfile.GNUTYPE_LONGNAME, 0) * 5000 + tarred([("a", b"")]),
        header("backwards", tarfile.REGTYPE, -512) + END,
        header("far", tarfile.REGTYPE, 8**11 - 1) + END,
    ],
    ids=["large pax", "large name", "many pax", "many names", "negative", "huge"],
)
def test_a_tar_header_that_claims_too_much_is_refused(refusal: Any, content: bytes) -> None:
    for packed in (content, gzip.compress(content)):
        assert refusal(packed).code in (
            ArchiveCode.BROKEN, ArchiveCode.TOO_MANY_FILES, ArchiveCode.TOO_LARGE
        )  # fmt: skip


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.REGTYPE])
def test_no_header_of_a_gzip_file_of_zeros_takes_memory(refusal: Any, kind: bytes) -> None:
    name = "._junk" if kind == tarfile.REGTYPE else "x"
    out = io.BytesIO()
    with gzip.open(out, "wb", compresslevel=1) as file:
        file.write(header(name, kind, 400 << 20))
        for _ in range(400):
            file.write(bytes(1 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refusal(out.getvalue()).code in (ArchiveCode.BROKEN, ArchiveCode.TOO_LARGE)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert grown < 200 << 10


@every_format
def test_no_damage_gets_past_the_refusals(unpacked: Unpack, make: Any) -> None:
    """Whatever is flipped, cut or repeated: the files of the archive, or ArtifactRejected."""
    whole = make(list(FILES.items()))
    chance = random.Random(7)
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            content[chance.randrange(len(content))] = chance.choice((0, 255, chance.randrange(256)))
        if chance.random() < 0.2:
            place = chance.randrange(len(content))
            content[place:place] = content[: chance.randrange(600)]
        with suppress(ArtifactRejected):
            unpacked(bytes(content))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_an_error_of_the_disk_is_not_blamed_on_the_archive(
    unpacked: Unpack, monkeypatch: Any, number: int
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(archive_module._Unpacking, "_copy", fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        unpacked(zipped(FILES.items()))


def stored(folder: Path) -> Manifest:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return Manifest.of(folder)


def downloaded(folder: Path, manifest: Manifest) -> bytes:
    return b"".join(zip_of((file.path, folder / file.path) for file in manifest.files))


def test_a_download_is_one_zip_that_can_be_uploaded(tmp_path: Path, unpacked: Unpack) -> None:
    manifest = stored(tmp_path / "into" / "artifact")
    content = downloaded(tmp_path / "into" / "artifact", manifest)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == sorted(FILES)
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
    assert unpacked(content) == FILES


def test_equal_artifacts_give_equal_downloads(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    manifest = stored(first)
    stored(second)
    for path in second.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    (second / "empty").chmod(0o700)
    assert downloaded(first, manifest) == downloaded(second, manifest)


@pytest.mark.parametrize("limit", [zipfile.ZIP64_LIMIT, 100], ids=["small", "as if over 2 GiB"])
@pytest.mark.parametrize(
    "sizes",
    [[], [0], [1, 99, 100, 101, 0], [500], [101, 3 << 20]],
    ids=["none", "empty", "around", "one", "large"],
)
def test_the_size_of_a_download_is_known_before(
    monkeypatch: Any, sizes: list[int], limit: int
) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    files = [(f"ä/{number}", bytes(size)) for number, size in enumerate(sizes)]
    content = b"".join(zip_of(files))
    assert zip_size((name, len(data)) for name, data in files) == len(content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert [entry.file_size for entry in archive.infolist()] == sizes


def test_more_entries_than_a_plain_zip_can_count_are_written(monkeypatch: Any) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    files = [(str(number), b"") for number in range(4)]
    assert zip_size((name, 0) for name, _ in files) == len(b"".join(zip_of(files)))


def test_a_download_is_made_in_small_pieces(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(20 << 20))
    pieces = [len(piece) for piece in zip_of([("large", tmp_path / "large")])]
    assert max(pieces) <= 2 << 20
    assert sum(pieces) == zip_size([("large", 20 << 20)])


def test_a_download_that_is_left_halfway_closes_its_file(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(4 << 20))
    before = len(os.listdir("/proc/self/fd"))
    pieces = zip_of([("large", tmp_path / "large")])
    next(pieces)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    pieces.close()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) == before
