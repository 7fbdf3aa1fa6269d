"""An artifact store that many use at once, and whose users are killed."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stackserve.store import artifacts as artifacts_module
from stackserve.store.artifacts import DIGEST, ArtifactStore
from tests.store.artifact_folders import (
    FILES,
    LIMITS,
    OTHER,
    chunks,
    damage,
    in_a_process,
    in_processes,
    make,
    names,
    receive,
)


def test_threads_that_upload_one_model_at_once_all_succeed(
    store: ArtifactStore, root: Path
) -> None:
    with ThreadPoolExecutor(4) as pool:
        digests = {stored.digest for stored in pool.map(lambda _: receive(store), range(16))}
    assert names(root) == digests
    assert len(digests) == 1


def test_processes_that_replace_one_damaged_artifact_at_once_all_succeed(
    store: ArtifactStore, root: Path
) -> None:
    stored = receive(store)
    damage(stored)
    assert in_processes(4, lambda: receive(store)) == [0] * 4
    assert store.verify(stored.digest) == stored
    assert names(root) == {stored.digest}


STEPS = {
    "open", "os.rename", "os.chmod", "os.mkdir", "os.remove", "os.rmdir", "os.link",
    "os.symlink", "os.truncate", "fcntl.flock",
}  # fmt: skip


def killed_at(step: int, work: Callable[[Callable[[], None]], object]) -> bool:
    """Do work in a process that is killed at its `step`th change of a file; whether it came so far."""

    def doomed() -> None:
        left = step

        def count() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        def sync_and_count(path: Path) -> None:
            count()
            sync(path)

        sync, artifacts_module.sync = artifacts_module.sync, sync_and_count
        sys.addaudithook(lambda event, _: count() if event in STEPS else None)
        work(count)

    status = in_a_process(doomed)
    assert status in (0, -signal.SIGKILL)
    return status != 0


def counted(pieces: Iterable[bytes], count: Callable[[], None]) -> Iterator[bytes]:
    for piece in pieces:
        count()
        yield piece


def whole(store: ArtifactStore, root: Path) -> set[str]:
    """The names of the artifacts, each of which is read to its last byte."""
    return {store.verify(name).digest for name in names(root) if DIGEST.fullmatch(name)}


def test_an_upload_killed_at_any_step_has_kept_all_or_nothing(tmp_path: Path) -> None:
    outcomes, step, going = [], 0, True
    while going:
        root = tmp_path / str(step)
        store = ArtifactStore(root)
        other = receive(store, OTHER).digest

        def upload(count: Callable[[], None], store: ArtifactStore = store) -> None:
            with store.receive(counted(chunks(FILES), count), LIMITS):
                pass

        going = killed_at(step, upload)
        found = whole(store, root)
        assert other in found
        outcomes.append(len(found) - 1)
        again = receive(store).digest
        assert names(root) == whole(store, root) == {other, again}
        step += 1
    assert step > 25
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {0, 1}


def test_a_collection_killed_at_any_step_has_removed_all_or_nothing(tmp_path: Path) -> None:
    step, going = 0, True
    while going:
        root = tmp_path / str(step)
        store = ArtifactStore(root)
        kept, dropped = receive(store, OTHER).digest, receive(store).digest

        def collect(_: object, store: ArtifactStore = store, kept: str = kept) -> None:
            store.collect(lambda: {kept})

        going = killed_at(step, collect)
        assert whole(store, root) in ({kept}, {kept, dropped})
        collect(None)
        assert names(root) == {kept}
        step += 1
    assert step > 10


def test_a_replacement_killed_at_any_step_never_shows_half_of_one(tmp_path: Path) -> None:
    step, going = 0, True
    while going:
        root = tmp_path / str(step)
        store = ArtifactStore(root)
        stored = receive(store)
        damage(stored)

        def upload(_: object, store: ArtifactStore = store) -> None:
            receive(store)

        going = killed_at(step, upload)
        if stored.digest in names(root):
            assert store.open(stored.digest) == stored
        assert receive(store) == stored
        assert store.verify(stored.digest) == stored
        assert names(root) == {stored.digest}
        step += 1


def test_a_store_whose_processes_are_killed_at_random_stays_whole(
    store: ArtifactStore, root: Path, tmp_path: Path
) -> None:
    kept, chance = receive(store).digest, random.Random(3)
    folder = make(tmp_path / "source", {"large": bytes(1 << 20), **OTHER})

    def work(seconds: float) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # it kills
        signal.setitimer(signal.ITIMER_REAL, seconds)
        while True:
            receive(store, OTHER)
            with store.add_folder(folder):
                pass
            store.collect(lambda: {kept})

    for _ in range(40):
        seconds = chance.uniform(0.001, 0.05)
        assert in_a_process(lambda seconds=seconds: work(seconds)) == -signal.SIGALRM
        assert kept in whole(store, root)
    store.collect(lambda: {kept})
    assert names(root) == {kept}


def test_a_dead_process_holds_no_lock(store: ArtifactStore, root: Path) -> None:
    assert killed_at(12, lambda _: receive(store))
    with (root / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
