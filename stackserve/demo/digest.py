"""Digests of files and of what a model folder means, and the stamp that marks a base complete."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stackserve.files import file_sha256

STAMP = ".stackserve.json"
_CHUNK = 1 << 20


def tensors_sha256(path: Path) -> str:
    """The sha256 over (name, dtype, shape, bytes) of each tensor of a safetensors file, by name.

    It leaves out the file's metadata and the order on disk, which depend on the library's version.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(header_size))
        header.pop("__metadata__", None)
        for name, entry in sorted(header.items()):
            digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
            begin, end = entry["data_offsets"]
            file.seek(8 + header_size + begin)
            left = end - begin
            while left:
                chunk = file.read(min(_CHUNK, left))
                if not chunk:
                    raise ValueError(f"{path} ends inside tensor {name}")
                digest.update(chunk)
                left -= len(chunk)
    return digest.hexdigest()


def tokenizer_sha256(folder: Path) -> str:
    """The sha256 of tokenizer.json, freed of layout, together with the chat template."""
    tokenizer = json.loads((folder / "tokenizer.json").read_bytes())
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return hashlib.sha256(json.dumps([tokenizer, template], sort_keys=True).encode()).hexdigest()


def write_stamp(folder: Path, made_from: str) -> None:
    """Record the size, time and digest of each file of a complete folder, atomically."""
    files = {
        path.name: {**_size_and_time(path), **_digest(path)}
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".")
    }
    fresh = folder / f"{STAMP}.{os.getpid()}"
    stamp = {"made_from": made_from, "files": files}
    fresh.write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
    fresh.replace(folder / STAMP)


def stamp_holds(folder: Path, made_from: str) -> bool:
    """Whether each file that the folder's stamp names has the size and time recorded there."""
    return _matches(folder, made_from, _size_and_time)


def contents_hold(folder: Path, made_from: str) -> bool:
    """Whether each file that the folder's stamp names has the digest recorded there (slow)."""
    return _matches(folder, made_from, _digest)


def _size_and_time(path: Path) -> dict[str, int | str]:
    stat = path.stat()
    return {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _digest(path: Path) -> dict[str, int | str]:
    return {"sha256": file_sha256(path)}


def _matches(folder: Path, made_from: str, measure: Callable[[Path], dict[str, int | str]]) -> bool:
    try:
        stamp = json.loads((folder / STAMP).read_bytes())
        files: dict[str, dict[str, int | str]] = stamp["files"]
        return stamp["made_from"] == made_from and all(
            measure(folder / name).items() <= recorded.items() for name, recorded in files.items()
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
