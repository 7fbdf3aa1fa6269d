"""The artifact store: what it keeps, what it refuses, and full disks."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stackserve.errors import ArtifactRejected
from stackserve.files import remove
from stackserve.store import artifacts as artifacts_module
from stackserve.store.artifacts import DIGEST, ArtifactStore
from tests.store.archives import read, zipped
from tests.store.artifact_folders import (
    FILES,
    LIMITS,
    NOBODY,
    OTHER,
    chunks,
    code_of,
    damage,
    in_a_process,
    make,
    names,
    receive,
)


def test_an_upload_is_kept_under_the_digest_of_its_files_and_read_only(
    store: ArtifactStore, root: Path
) -> None:
    stored = receive(store)
    assert names(root) == {stored.digest}
    assert stored.digest == stored.manifest.digest
    assert stored.folder == root / stored.digest / "files"
    assert read(stored.folder) == FILES
    for path in (root / stored.digest).rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o555 if path.is_dir() else 0o444)
    assert stat.S_IMODE((root / stored.digest).stat().st_mode) == 0o555
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_what_is_kept_is_found_again_by_another_process(store: ArtifactStore, root: Path) -> None:
    stored = receive(store)
    assert ArtifactStore(root).open(stored.digest) == stored
    assert ArtifactStore(root).verify(stored.digest) == stored


def test_one_model_is_kept_once_however_it_comes(
    store: ArtifactStore, root: Path, tmp_path: Path
) -> None:
    first = receive(store)
    inode = (first.folder / "weights/model.bin").stat().st_ino
    wrapped = {f"my-model/{name}": content for name, content in FILES.items()}
    assert receive(store, wrapped) == first
    with store.add_folder(make(tmp_path / "source")) as added:
        assert added == first
    assert names(root) == {first.digest}
    assert (first.folder / "weights/model.bin").stat().st_ino == inode


def test_later_changes_of_an_added_folder_have_no_effect(
    store: ArtifactStore, tmp_path: Path
) -> None:
    folder = make(tmp_path / "source")
    with store.add_folder(folder) as stored:
        pass
    (folder / "weights/model.bin").write_bytes(b"")
    assert read(store.verify(stored.digest).folder) == FILES


def test_a_folder_with_a_link_is_refused(store: ArtifactStore, root: Path, tmp_path: Path) -> None:
    folder = make(tmp_path / "source")
    (folder / "link").symlink_to("adapter_config.json")
    assert code_of(store.add_folder(folder).__enter__) == "artifact_not_regular"
    assert not root.exists()


def test_a_file_that_becomes_a_link_while_it_is_copied_is_refused(
    store: ArtifactStore, root: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    folder, copyfile = make(tmp_path / "source"), artifacts_module.shutil.copyfile
    elsewhere = make(tmp_path / "elsewhere")
    elsewhere.chmod(0o755)

    def swap_and_copy(source: Path, target: Path, **how: Any) -> Any:
        source.unlink()
        source.symlink_to(elsewhere)
        return copyfile(source, target, **how)

    monkeypatch.setattr(artifacts_module.shutil, "copyfile", swap_and_copy)
    assert code_of(store.add_folder(folder).__enter__) == "artifact_not_regular"
    assert names(root) == set()
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o755
    assert read(elsewhere) == FILES


def test_a_missing_or_empty_folder_is_refused(store: ArtifactStore, tmp_path: Path) -> None:
    assert code_of(store.add_folder(tmp_path / "none").__enter__) == "folder_missing"
    (tmp_path / "empty" / "below").mkdir(parents=True)
    assert code_of(store.add_folder(tmp_path / "empty").__enter__) == "archive_empty"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_source_that_cannot_be_read_is_not_blamed_on_the_store(
    store: ArtifactStore, tmp_path: Path
) -> None:
    folder = make(tmp_path / "source")
    (folder / "adapter_config.json").chmod(0)
    assert code_of(store.add_folder(folder).__enter__) == "file_unreadable"


def test_an_upload_over_the_limit_is_stopped_while_it_comes(
    store: ArtifactStore, root: Path
) -> None:
    taken = []

    def endless() -> Iterator[bytes]:
        while True:
            taken.append(1)
            yield bytes(100_000)

    assert code_of(store.receive(endless(), LIMITS).__enter__) == "archive_too_large"
    assert len(taken) == LIMITS.max_bytes // 100_000 + 1
    assert names(root) == set()


@pytest.mark.parametrize("content", [b"", b"text", zipped(FILES.items())[:-30]])
def test_a_refused_upload_leaves_nothing_behind(
    store: ArtifactStore, root: Path, content: bytes
) -> None:
    assert code_of(store.receive([content], LIMITS).__enter__).startswith("archive_")
    assert names(root) == set()


def test_what_inspection_refuses_is_not_kept(store: ArtifactStore, root: Path) -> None:
    def inspect(folder: Path) -> None:
        assert read(folder) == FILES
        raise ArtifactRejected("value_nan", "it has a NaN")

    assert code_of(store.receive(chunks(FILES), LIMITS, inspect).__enter__) == "value_nan"
    assert names(root) == set()


@pytest.mark.parametrize("error", [TimeoutError, ConnectionResetError, KeyboardInterrupt])
def test_an_error_of_who_sends_stays_what_it_is_and_leaves_nothing(
    store: ArtifactStore, root: Path, error: type[BaseException]
) -> None:
    def broken() -> Iterator[bytes]:
        yield from list(chunks(FILES))[:3]
        raise error

    with pytest.raises(error):
        store.receive(broken(), LIMITS).__enter__()
    assert names(root) == set()


def test_an_error_of_who_receives_is_not_blamed_on_the_store(store: ArtifactStore) -> None:
    with pytest.raises(TimeoutError), store.receive(chunks(FILES), LIMITS):
        raise TimeoutError
    assert store.collect(set) == sum(map(len, FILES.values())) + _manifest_size(FILES)


def _manifest_size(files: dict[str, bytes]) -> int:
    shell = len('{"path":"","size":,"sha256":""},')
    return 1 + sum(shell + len(name) + len(str(len(data))) + 64 for name, data in files.items())


@pytest.mark.parametrize("failing", ["mkdir", "fsync", "chmod", "rename", "open"])
@pytest.mark.parametrize(
    ("number", "code", "named"),
    [
        (errno.ENOSPC, "store_full", "full"),
        (errno.EDQUOT, "store_full", "full"),
        (errno.EROFS, "store_unwritable", "Read-only"),
        (errno.EACCES, "store_unwritable", "Permission denied"),
    ],
)
def test_a_full_or_unwritable_disk_is_a_refusal_and_recovers(
    store: ArtifactStore, root: Path, monkeypatch: Any,
    failing: str, number: int, code: str, named: str,
) -> None:  # fmt: skip
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, fail)
        with pytest.raises(ArtifactRejected, match=named) as refusal:
            receive(store)
    assert refusal.value.code == code
    assert not root.exists() or not any(DIGEST.fullmatch(name) for name in names(root))
    digest = receive(store).digest
    assert names(root) == {digest}


def test_a_disk_that_fills_while_an_upload_comes_is_full(root: Path) -> None:
    """Of a process whose files may have 200 bytes, for which the system has another word than full."""

    def limited() -> None:
        artifacts_module.FULL = (errno.EFBIG,)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
        assert code_of(lambda: receive(ArtifactStore(root))) == "store_full"
        assert names(root) == set()

    assert in_a_process(limited) == 0


def test_a_store_below_a_file_is_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = ArtifactStore(tmp_path / "file" / "store")
    assert code_of(lambda: receive(below)) == "store_unwritable"


def test_an_ordinary_user_keeps_replaces_and_collects(tmp_path: Path) -> None:
    """Root may move and remove read-only folders where nobody else may."""
    (tmp_path / "own").mkdir()

    def as_nobody() -> None:
        os.chdir(tmp_path / "own")  # the way to it is closed to others
        if os.geteuid() == 0:
            os.chown(".", NOBODY, NOBODY)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        store = ArtifactStore(Path("store"))
        stored = receive(store)
        damage(stored)
        assert receive(store) == stored
        store.verify(stored.digest)
        assert store.collect(set) > 0
        assert names(Path("store")) == set()

    assert in_a_process(as_nobody) == 0


@pytest.mark.parametrize("digest", ["0" * 64, "", "..", "../store", "A" * 64, ".lock"])
def test_a_digest_that_is_not_kept_is_said_to_be_missing(store: ArtifactStore, digest: str) -> None:
    receive(store)
    assert code_of(lambda: store.open(digest)) == "artifact_not_stored"
    assert code_of(lambda: store.verify(digest)) == "artifact_not_stored"


def _shorten(folder: Path) -> str:
    (folder / "weights/model.bin").write_bytes(b"short")
    return "weights/model.bin: it has 5 bytes"


def _delete(folder: Path) -> str:
    (folder / "weights/model.bin").unlink()
    return "weights/model.bin: it is missing"


def _add(folder: Path) -> str:
    (folder / "weights/more").touch()
    return "weights/more: it was added"


def _delete_all(folder: Path) -> str:
    remove(folder)
    return "adapter_config.json: it is missing"


def _delete_manifest(folder: Path) -> str:
    (folder.parent / "manifest.json").unlink()
    return "manifest.json"


def _cut_manifest(folder: Path) -> str:
    (folder.parent / "manifest.json").write_bytes(b"[")
    return "manifest.json"


def _forge_manifest(folder: Path) -> str:
    (folder.parent / "manifest.json").write_bytes(b"[]")
    return "manifest.json: it is another artifact's"


@pytest.mark.parametrize(
    "harm",
    [_shorten, _delete, _add, _delete_all, _delete_manifest, _cut_manifest, _forge_manifest],
)
def test_damage_is_named_when_it_is_opened_and_the_next_upload_repairs_it(
    store: ArtifactStore, root: Path, harm: Callable[[Path], str]
) -> None:
    stored = receive(store)
    for path in (root / stored.digest, *(root / stored.digest).rglob("*")):
        path.chmod(0o700)
    said = harm(stored.folder)
    with pytest.raises(ArtifactRejected, match=said) as refusal:
        store.open(stored.digest)
    assert refusal.value.code == "artifact_damaged"
    assert receive(store) == stored
    assert store.verify(stored.digest) == stored
    assert names(root) == {stored.digest}


def test_a_changed_byte_is_found_by_reading_everything(store: ArtifactStore) -> None:
    stored = receive(store)
    damage(stored)
    assert store.open(stored.digest) == stored
    with pytest.raises(ArtifactRejected, match=r"weights/model\.bin") as refusal:
        store.verify(stored.digest)
    assert refusal.value.code == "artifact_damaged"


def test_a_file_or_link_in_an_artifacts_place_is_replaced(
    store: ArtifactStore, root: Path, tmp_path: Path
) -> None:
    digest, elsewhere = receive(store).digest, make(tmp_path / "elsewhere", OTHER)
    for plant in (Path.touch, lambda path: path.symlink_to(elsewhere)):
        store.collect(set)
        plant(root / digest)
        receive(store)
        assert names(root) == {digest}
        assert read(store.verify(digest).folder) == FILES
    assert read(elsewhere) == OTHER


def test_collect_removes_what_nobody_refers_to_and_counts_its_bytes(
    store: ArtifactStore, root: Path
) -> None:
    kept, dropped = receive(store), receive(store, OTHER)
    assert store.collect(lambda: {kept.digest}) == len(b"other") + _manifest_size(OTHER)
    assert names(root) == {kept.digest}
    assert store.collect(lambda: {kept.digest, dropped.digest}) == 0


def test_collect_of_a_store_that_was_never_used_frees_nothing(store: ArtifactStore) -> None:
    assert store.collect(set) == 0


def test_collect_leaves_what_is_not_the_stores(store: ArtifactStore, root: Path) -> None:
    receive(store)
    (root / "notes.txt").write_text("mine")
    store.collect(set)
    assert names(root) == {"notes.txt"}


def test_collect_removes_even_what_is_damaged_and_follows_no_link(
    store: ArtifactStore, root: Path, tmp_path: Path
) -> None:
    stored, elsewhere = receive(store), make(tmp_path / "elsewhere", OTHER)
    elsewhere.chmod(0o755)
    stored.folder.chmod(0o700)
    (stored.folder / "link").symlink_to(elsewhere)
    assert store.collect(set) > 0
    assert names(root) == set()
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o755
    assert read(elsewhere) == OTHER


def test_collect_asks_only_when_the_running_upload_has_its_reference(
    store: ArtifactStore,
) -> None:
    referred: set[str] = set()
    with store.receive(chunks(FILES), LIMITS) as stored:
        collecting = threading.Thread(target=store.collect, args=(lambda: referred,))
        collecting.start()
        collecting.join(0.1)  # it must not end, however long it is given
        assert collecting.is_alive()
        referred.add(stored.digest)
    collecting.join(30)
    assert store.verify(stored.digest) == stored


@pytest.mark.parametrize("call", [receive, lambda store: store.collect(set)])
def test_what_a_crash_left_is_swept_by_the_next_one(
    store: ArtifactStore, root: Path, call: Callable[[ArtifactStore], object]
) -> None:
    for name in (".new-dead", ".removed-dead"):
        make(root / name / "files")
        for path in (root / name, *(root / name).rglob("*")):
            path.chmod(0o555)
    call(store)
    assert not [name for name in names(root) if name.startswith(".")]


def test_a_running_upload_is_not_swept_by_another(store: ArtifactStore) -> None:
    def slow() -> Iterator[bytes]:
        for chunk in chunks(FILES):
            receive(store, OTHER)
            yield chunk

    with store.receive(slow(), LIMITS) as stored:
        assert store.verify(stored.digest) == stored
