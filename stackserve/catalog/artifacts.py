"""Artifacts of models and groups: taken in, inspected, found again, and let go."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from stackserve.adapters import AdapterLimits, BaseArchitecture, inspect_adapter
from stackserve.catalog.resources import now
from stackserve.errors import ArtifactRejected, Conflict, InvalidParameter
from stackserve.settings import LORA_RANKS
from stackserve.store.archive import ArchiveLimits
from stackserve.store.artifacts import ArtifactStore, StoredArtifact
from stackserve.store.database import Database
from stackserve.store.kinds import ArtifactKind, detect
from stackserve.store.manifest import Manifest, regular_files
from stackserve.store.tables import Artifact, Group, Model

MOST_ADAPTER = AdapterLimits(max_rank=LORA_RANKS[-1], max_bytes=1 << 30)

Facts = dict[str, Any]


class Shelf:
    """The artifact store, and the folders outside of it from which models may be registered."""

    def __init__(
        self,
        store: ArtifactStore,
        folders: Sequence[Path] = (),
        limits: ArchiveLimits = ArchiveLimits(),  # noqa: B008  # frozen
    ) -> None:
        self._store = store
        self._folders = tuple(folder.resolve() for folder in folders)
        self._limits = limits
        self._unchanged: dict[str, Facts] = {}
        """By digest, the stamps of a registered folder when all of it was last read."""

    @contextmanager
    def receive(self, chunks: Iterable[bytes], *, of_group: bool = False) -> Iterator[Artifact]:
        """Take an archive in. The row that is yielded is new: keep it with `refer`, in the block.

        Raises ArtifactRejected for anything that could not be served.
        """
        found: dict[str, Any] = {}

        def inspect(folder: Path) -> None:
            found.update(_examine(folder, ArtifactKind.OTHER if of_group else detect(folder)))

        with self._store.receive(chunks, self._limits, inspect) as stored:
            yield _row(stored, **found)

    @contextmanager
    def register(self, written: str) -> Iterator[Artifact]:
        """Take a folder of this machine in: an adapter is copied, a base stays where it is.

        Raises InvalidParameter for a folder that may not be registered, and ArtifactRejected.
        """
        folder = self._allowed(written)
        found: dict[str, Any] = {}
        if detect(folder) is ArtifactKind.BASE:
            with _reading(folder):
                before = _stamps(folder)
                found = _examine(folder, ArtifactKind.BASE)
                manifest = Manifest.of(folder)
            found["facts"]["stamps"] = before
            stored = StoredArtifact(manifest.digest, manifest, folder)
            yield _row(stored, **found, folder=str(folder))
            return

        def inspect(copy: Path) -> None:
            found.update(_examine(copy, detect(copy)))

        with self._store.add_folder(folder, inspect) as stored:
            yield _row(stored, **found)

    def _allowed(self, written: str) -> Path:
        try:
            folder = Path(written).resolve()
            allowed = any(folder.is_relative_to(each) for each in self._folders)
            exists = allowed and folder.is_dir()
        except (OSError, RuntimeError, ValueError) as error:  # links in a ring, names too long, NUL
            raise InvalidParameter(f"path {written[:256]!r} is no folder's: {error}") from None
        if not allowed:
            raise InvalidParameter(
                f"path {written[:256]} may not be registered; upload the model, or have the "
                "operator add a folder above it to server.local_folders"
            )
        if not exists:
            raise ArtifactRejected("folder_missing", f"{folder} is not a folder")
        return folder

    def folder(self, artifact: Artifact) -> Path:
        """Where an artifact's files are, after a look at their names and sizes; of a registered
        folder that was touched, every byte is read. Raises ArtifactRejected.
        """
        if artifact.folder is None:
            return self._store.open(artifact.digest).folder
        folder = Path(artifact.folder)
        with _reading(folder):
            if not folder.is_dir():
                raise ArtifactRejected(
                    "folder_missing", f"{folder} is gone, where a base was registered; put it back"
                )
            stamps = _stamps(folder)
            if stamps in (artifact.facts.get("stamps"), self._unchanged.get(artifact.digest)):
                return folder
            digest = Manifest.of(folder).digest
        if digest != artifact.digest:
            raise ArtifactRejected(
                "artifact_damaged",
                f"{folder} is no longer what was registered; register it as a new model",
            )
        self._unchanged[artifact.digest] = stamps
        return folder

    def files(self, artifact: Artifact) -> list[tuple[str, Path]]:
        """Each file's name in the artifact, and where it is. Raises ArtifactRejected."""
        folder = self.folder(artifact)
        with _reading(folder):
            return [(name, folder / name) for name in _stamps(folder)]

    def collect(self, database: Database) -> int:
        """Let go of what no model and no group refers to; the bytes freed."""

        def referred() -> set[str]:
            return database.transact(_forget_unreferred)

        return self._store.collect(referred)


def find_artifact(session: Session, digest: str | None, owner: str) -> Artifact:
    """Raises Conflict when the owner has none."""
    artifact = session.get(Artifact, digest) if digest else None
    if artifact is None:
        raise Conflict(f"{owner} has no artifact; upload one first")
    return artifact


def refer(session: Session, owner: Model | Group, artifact: Artifact) -> None:
    """Give a locked model or group its artifact, for good. Raises Conflict when it has another.

    Of what is known twice, the later place counts: the earlier folder may be gone by now.
    """
    if owner.artifact_digest not in (None, artifact.digest):
        raise Conflict(
            f"{owner.id} has an artifact, which never changes; create another one for these files"
        )
    known = session.get(Artifact, artifact.digest)
    if known is None:
        session.add(artifact)
        session.flush()
    elif known.folder is not None:
        known.folder, known.facts = artifact.folder, artifact.facts
    owner.artifact_digest = artifact.digest


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Turn an error of a registered folder's disk into a refusal."""
    try:
        yield
    except OSError as error:
        raise ArtifactRejected(
            "file_unreadable",
            f"{error.filename or folder} cannot be read ({error.strerror}); check its permissions",
        ) from error


def _forget_unreferred(session: Session) -> set[str]:
    used = {
        digest
        for column in (Model.artifact_digest, Group.artifact_digest)
        for digest in session.scalars(select(column).where(column.is_not(None)))
        if digest is not None
    }
    for artifact in session.scalars(select(Artifact)):
        if artifact.digest not in used:
            session.delete(artifact)
    return used


def _examine(folder: Path, kind: ArtifactKind) -> dict[str, Any]:
    """What an artifact is, and the facts of it. Raises ArtifactRejected."""
    facts: Facts = {}
    if kind is ArtifactKind.BASE:
        base = BaseArchitecture.from_folder(folder)
        facts = {
            "fingerprint": base.fingerprint,
            "architecture": base.architecture,
            "dtype": base.dtype,
            "vocabulary_size": base.vocabulary_size,
        }
    elif kind is ArtifactKind.ADAPTER:
        facts = asdict(inspect_adapter(folder, MOST_ADAPTER))
    return {"kind": kind, "facts": facts}


def _row(
    stored: StoredArtifact, *, kind: ArtifactKind, facts: Facts, folder: str | None = None
) -> Artifact:
    return Artifact(
        digest=stored.digest,
        kind=kind,
        size_bytes=stored.manifest.size_bytes,
        folder=folder,
        facts=facts,
        time_created=now(),
    )


def _stamps(folder: Path) -> dict[str, list[int]]:
    """Of each file its size and time of change: equal stamps, unread bytes taken for equal."""
    stamps = ((path, path.lstat()) for path in regular_files(folder))
    return {
        path.relative_to(folder).as_posix(): [stat.st_size, stat.st_mtime_ns]
        for path, stat in sorted(stamps, key=lambda each: os.fspath(each[0]))
    }
