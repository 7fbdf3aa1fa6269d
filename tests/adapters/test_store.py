"""The store: what it keeps, what it refuses, and what survives crashes and full disks."""

from __future__ import annotations

import errno
import multiprocessing
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stackserve.adapters import AdapterLimits, AdapterStore, BaseArchitecture
from stackserve.adapters import store as store_module
from stackserve.adapters.validate import ValidatedAdapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "store"


@pytest.fixture
def store(root: Path) -> AdapterStore:
    return AdapterStore(root)


@pytest.fixture
def load(store: AdapterStore, base: BaseArchitecture, limits: AdapterLimits) -> Any:
    return lambda folder: store.import_adapter(folder, base, limits)


def names(root: Path) -> set[str]:
    """What the store holds beside its locks."""
    return {path.name for path in root.iterdir() if not path.name.endswith(".lock")}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def damage(folder: Path) -> None:
    os.chmod(folder / WEIGHTS, 0o600)
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_keeps_exactly_the_two_files_under_the_digest_and_read_only(
    adapters: Any, load: Any, root: Path
) -> None:
    folder = adapters.make()
    for extra in ("chat_template.jinja", "training_args.bin"):
        (folder / extra).write_text("{{ evil }}")
    adapter: ValidatedAdapter = load(folder)
    assert adapter.folder == root / adapter.digest
    assert names(root) == {adapter.digest}
    assert {path.name for path in adapter.folder.iterdir()} == {CONFIG, WEIGHTS}
    assert (mode(root), mode(adapter.folder)) == (0o700, 0o555)
    for name in (CONFIG, WEIGHTS):
        assert mode(adapter.folder / name) == 0o444
        assert (adapter.folder / name).read_bytes() == (folder / name).read_bytes()


def test_later_changes_of_the_source_have_no_effect(
    adapters: Any, load: Any, store: AdapterStore
) -> None:
    folder = adapters.make()
    adapter = load(folder)
    (folder / WEIGHTS).write_bytes(b"")
    assert store.verify(adapter.digest) == adapter.folder


def test_the_same_adapter_is_kept_once(adapters: Any, load: Any, root: Path) -> None:
    first = load(adapters.make())
    kept = (first.folder / WEIGHTS).stat().st_ino
    assert load(adapters.make()) == first
    assert (first.folder / WEIGHTS).stat().st_ino == kept
    assert load(adapters.make({"lora_alpha": 8})).digest != first.digest
    assert len(names(root)) == 2


def test_a_refused_adapter_leaves_nothing_behind(
    adapters: Any, load: Any, root: Path, refused: Any
) -> None:
    with refused("rank_mismatch"):
        load(adapters.make({"r": 4}))
    assert names(root) == set()


def test_what_is_validated_is_the_copy(
    adapters: Any, load: Any, refused: Any, monkeypatch: Any
) -> None:
    """A source that turns bad after it was opened, before it is copied, is seen as bad."""
    folder, real = adapters.make(), store_module._copy_files

    def swap_then_copy(*args: Any) -> None:
        (folder / WEIGHTS).write_bytes(b"x" * 100)
        real(*args)

    monkeypatch.setattr(store_module, "_copy_files", swap_then_copy)
    with refused("weights_invalid"):
        load(folder)


def test_a_file_that_grows_while_it_is_copied_is_bounded(
    adapters: Any, base: BaseArchitecture, store: AdapterStore, refused: Any, monkeypatch: Any
) -> None:
    folder, real = adapters.make(), os.pread

    def endless(fd: int, size: int, offset: int) -> bytes:
        grows = os.readlink(f"/proc/self/fd/{fd}") == str(folder / WEIGHTS)
        return bytes(size) if grows else real(fd, size, offset)

    monkeypatch.setattr(os, "pread", endless)
    with refused("adapter_too_large", "100000"):
        store.import_adapter(folder, base, AdapterLimits(16, 100_000))


@pytest.mark.parametrize("harm", ["bytes", "missing", "extra", "link", "file", "empty"])
def test_a_damaged_copy_is_reported_and_replaced_by_the_next_import(
    adapters: Any, load: Any, store: AdapterStore, root: Path, refused: Any, harm: str
) -> None:
    adapter = load(adapters.make())
    os.chmod(adapter.folder, 0o700)
    if harm == "bytes":
        damage(adapter.folder)
    elif harm == "extra":
        (adapter.folder / "adapter_model.bin").touch()
    elif harm == "missing":
        (adapter.folder / WEIGHTS).unlink()
    elif harm == "empty":
        for name in (CONFIG, WEIGHTS):
            (adapter.folder / name).unlink()
    else:
        adapter.folder.rename(root.parent / "moved")
        if harm == "link":
            adapter.folder.symlink_to(root.parent / "moved")
        else:
            adapter.folder.touch()
    with refused("adapter_damaged", adapter.digest):
        store.verify(adapter.digest)
    assert load(adapters.make()) == adapter
    assert store.verify(adapter.digest) == adapter.folder
    assert names(root) == {adapter.digest}


@pytest.mark.parametrize("digest", ["0" * 64, "", "..", "../store", "A" * 64, "0" * 64 + "\n"])
def test_verify_knows_only_digests_that_it_holds(
    store: AdapterStore, refused: Any, digest: str
) -> None:
    with refused("adapter_not_stored", ascii(digest)):
        store.verify(digest)


def test_collect_removes_what_is_not_kept_and_counts_its_bytes(
    adapters: Any, load: Any, store: AdapterStore, root: Path
) -> None:
    kept, dropped = load(adapters.make()), load(adapters.make({"lora_alpha": 8}))
    (root / "notes").mkdir()
    (root / "f00d").touch()
    assert store.collect({kept.digest}) == dropped.size_bytes
    assert names(root) == {kept.digest, "notes", "f00d"}
    assert store.collect({kept.digest}) == 0
    assert store.verify(kept.digest)


def test_collect_of_a_store_that_was_never_used_frees_nothing(store: AdapterStore) -> None:
    assert store.collect(set()) == 0


def test_what_a_crash_left_is_swept_by_the_next_import(
    adapters: Any, load: Any, root: Path
) -> None:
    for name in (".import-dead", ".removed-dead"):
        (root / name).mkdir(parents=True)
        (root / name / WEIGHTS).write_bytes(b"half")
        os.chmod(root / name, 0o555)
    adapter = load(adapters.make())
    assert names(root) == {adapter.digest}


def test_a_running_import_is_not_swept_by_another(
    adapters: Any, load: Any, store: AdapterStore, root: Path
) -> None:
    root.mkdir(parents=True)
    with store._importing():
        (root / ".import-alive").mkdir()
        load(adapters.make())
        assert ".import-alive" in names(root)


@pytest.mark.parametrize("failing", ["mkdir", "write", "fsync", "fchmod", "rename"])
@pytest.mark.parametrize(
    ("number", "code", "named"),
    [
        (errno.ENOSPC, "store_full", " bytes"),
        (errno.EDQUOT, "store_full", " bytes"),
        (errno.EROFS, "store_unwritable", "Read-only"),
        (errno.EACCES, "store_unwritable", "Permission denied"),
    ],
)
def test_a_full_or_unwritable_disk_is_a_refusal_and_recovers(
    adapters: Any, load: Any, root: Path, refused: Any, monkeypatch: Any,
    failing: str, number: int, code: str, named: str,
) -> None:  # fmt: skip
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number))

    folder = adapters.make()
    with monkeypatch.context() as patched:
        patched.setattr(os, failing, fail)
        with refused(code, named):
            load(folder)
    assert not root.exists() or names(root) == set()
    adapter = load(folder)
    assert names(root) == {adapter.digest}


def test_store_full_says_how_many_bytes_are_needed(
    adapters: Any, load: Any, refused: Any, monkeypatch: Any
) -> None:
    folder = adapters.make()
    size = sum(path.stat().st_size for path in folder.iterdir())

    def full(*args: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with refused("store_full", f"{size} bytes"):
        load(folder)


def test_a_store_below_a_file_is_unwritable(
    adapters: Any, base: BaseArchitecture, limits: AdapterLimits, tmp_path: Path, refused: Any
) -> None:
    (tmp_path / "file").touch()
    with refused("store_unwritable", "Not a directory"):
        AdapterStore(tmp_path / "file" / "store").import_adapter(adapters.make(), base, limits)


def import_in_a_process(root: Path, folder: Path, base: BaseArchitecture) -> str:
    limits = AdapterLimits(max_rank=16, max_bytes=1 << 20)
    return AdapterStore(root).import_adapter(folder, base, limits).digest


def test_threads_that_import_one_adapter_at_once_all_succeed(
    adapters: Any, base: BaseArchitecture, root: Path
) -> None:
    folder = adapters.make()
    with ThreadPoolExecutor(4) as pool:
        digests = set(pool.map(lambda _: import_in_a_process(root, folder, base), range(16)))
    assert names(root) == digests
    assert len(digests) == 1


def test_processes_that_replace_one_damaged_adapter_at_once_all_succeed(
    adapters: Any, base: BaseArchitecture, load: Any, store: AdapterStore, root: Path
) -> None:
    folder = adapters.make()
    adapter = load(folder)
    os.chmod(adapter.folder, 0o700)
    damage(adapter.folder)
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=import_in_a_process, args=(root, folder, base)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert store.verify(adapter.digest)
    assert names(root) == {adapter.digest}
