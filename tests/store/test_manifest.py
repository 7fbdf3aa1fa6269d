"""Manifests: equal files have one digest, whatever the disk and the order."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
import pytest

from stackserve.errors import ArtifactRejected
from stackserve.store.manifest import ArtifactFile, Manifest

FILES = {"b.txt": b"bee", "a/z.bin": b"\0" * 1000, "a.txt": b"", "ä.txt": b"umlaut"}


def make(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def test_a_manifest_lists_every_file_by_path_with_size_and_hash(tmp_path: Path) -> None:
    manifest = Manifest.of(make(tmp_path, FILES))
    assert manifest.files == tuple(
        ArtifactFile(name, len(FILES[name]), hashlib.sha256(FILES[name]).hexdigest())
        for name in sorted(FILES)
    )
    assert manifest.size_bytes == 1009


def test_the_digest_is_of_names_and_bytes_and_of_nothing_else(tmp_path: Path) -> None:
    first = make(tmp_path / "first", FILES)
    second = make(tmp_path / "second", dict(reversed(FILES.items())))
    (second / "b.txt").chmod(0o600)
    os.utime(second / "b.txt", (1, 1))
    (second / "an empty folder").mkdir()
    assert Manifest.of(first).digest == Manifest.of(second).digest


@pytest.mark.parametrize(
    "other",
    [
        FILES | {"b.txt": b"be"},
        FILES | {"b.txt": b"bed"},
        FILES | {"c.txt": b""},
        {name: content for name, content in FILES.items() if name != "a.txt"},
        {name.replace("b.txt", "c.txt"): content for name, content in FILES.items()},
    ],
    ids=["shorter", "other bytes", "one more", "one less", "renamed"],
)
def test_another_artifact_has_another_digest(tmp_path: Path, other: dict[str, bytes]) -> None:
    first, second = make(tmp_path / "1", FILES), make(tmp_path / "2", other)
    assert Manifest.of(first).digest != Manifest.of(second).digest


def test_the_digest_of_given_files_never_changes(tmp_path: Path) -> None:
    """Stored artifacts are found by it: a change here orphans what users have."""
    manifest = Manifest.of(make(tmp_path, {"b/c.txt": b"hello", "a.txt": b""}))
    written = (
        b'[{"path":"a.txt","size":0,"sha256":'
        b'"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},'
        b'{"path":"b/c.txt","size":5,"sha256":'
        b'"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}]'
    )
    assert manifest.to_json() == written
    assert manifest.digest == hashlib.sha256(written).hexdigest()


def test_a_manifest_survives_being_written(tmp_path: Path) -> None:
    manifest = Manifest.of(make(tmp_path, FILES))
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[{}]",
        b'[{"path":"a","size":"0","sha256":"x"}]',
        b'[{"path":"a","size":0,"sha256":"x","mode":420}]',
        b'[{"path":"a","size":0,"sha256":"x"}] more',
        b'[{"path":"a","size":0,"sha25',
    ],
)
def test_what_is_not_exactly_a_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        Manifest.from_json(content)


@pytest.mark.parametrize("kind", ["link", "link to a folder", "dangling link", "pipe"])
def test_a_link_or_special_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    folder = make(tmp_path / "artifact", {"sub/a.txt": b"a"})
    odd = folder / "sub" / "odd"
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to({"link": "a.txt", "link to a folder": "..", "dangling link": "gone"}[kind])
    with pytest.raises(ArtifactRejected, match="sub/odd") as refusal:
        Manifest.of(folder)
    assert refusal.value.code == "artifact_not_regular"


@pytest.mark.parametrize("name", [b"\xff.bin", b"line\nbreak"])
def test_a_name_that_cannot_be_shown_is_refused(tmp_path: Path, name: bytes) -> None:
    (tmp_path / os.fsdecode(name)).touch()
    with pytest.raises(ArtifactRejected) as refusal:
        Manifest.of(tmp_path)
    assert refusal.value.code == "artifact_unsafe_name"
    assert refusal.value.message.isprintable()
