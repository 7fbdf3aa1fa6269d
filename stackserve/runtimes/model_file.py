"""The one file that a model is made of, and the options of the runtime that reads it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

import msgspec

from stackserve.runtimes.base import ModelFiles, ModelRefused

Options = TypeVar("Options", bound=msgspec.Struct)


def read_options(files: ModelFiles, kind: type[Options]) -> Options:
    """The member's options as a struct, of which no other field may be given. Raises ModelRefused."""
    try:
        return msgspec.convert(dict(files.options), kind)
    except msgspec.ValidationError as error:
        raise invalid_options(
            files, f"{error}; the options here are {', '.join(kind.__struct_fields__)}"
        ) from error


def invalid_options(files: ModelFiles, wrong: str) -> ModelRefused:
    """To be raised. `wrong` says what is wrong, and what to do."""
    return ModelRefused("invalid_options", f"the options of {files.folder.name} are wrong: {wrong}")


def find_file(
    files: ModelFiles,
    suffixes: Collection[str],
    *,
    usual: str | None = None,
    chosen: str | None = None,
    unsafe: Collection[str] = (),
) -> Path:
    """The chosen file, else the usual one, else the only one of the safe suffixes; with `allow_unsafe`
    those of the unsafe ones count too. Raises ModelRefused.
    """
    readable = {*suffixes, *unsafe} if files.allow_unsafe else set(suffixes)
    name = chosen if chosen is not None else _only(files, readable, usual, unsafe)
    if Path(name).name != name:
        raise invalid_options(files, f"file is {name!r}; write the name of a file of the folder")
    if Path(name).suffix not in readable:
        raise _unreadable(name, suffixes, unsafe)
    return inside(files.folder, name)


def inside(folder: Path, name: str) -> Path:
    """A regular file of the folder, reached through no link that leaves it. Raises ModelRefused."""
    path = folder / name
    if not path.is_file():
        raise ModelRefused("file_missing", f"{folder.name} holds no file {name!r}; put it there")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ModelRefused(
            "file_outside",
            f"{name} is a link to a file outside of {folder.name}; copy the file into the folder",
        )
    return path


def _only(
    files: ModelFiles, readable: Collection[str], usual: str | None, unsafe: Collection[str]
) -> str:
    folder = files.folder
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    if usual in names:
        return str(usual)
    found = [name for name in names if Path(name).suffix in readable]
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelRefused(
            "format_ambiguous",
            f"{folder.name} holds {', '.join(found[:3])}; name one of them in the option file",
        )
    refused = [name for name in names if Path(name).suffix in unsafe]
    if refused:
        raise _unreadable(refused[0], readable, unsafe)
    shown = ", ".join(names[:5]) or "nothing"
    raise ModelRefused(
        "format_unknown", f"{folder.name} must hold a file {_any_of(readable)} and holds {shown}"
    )


def _unreadable(name: str, suffixes: Collection[str], unsafe: Collection[str]) -> ModelRefused:
    if Path(name).suffix in unsafe:
        return ModelRefused(
            "unsafe_format",
            f"{name} can run code when it is read; save the model as {_any_of(suffixes)}, or set "
            "allow_unsafe_formats if you made the file yourself",
        )
    return ModelRefused(
        "format_unknown", f"{name} is not read here; save the model as {_any_of(suffixes)}"
    )


def _any_of(suffixes: Collection[str]) -> str:
    return " or ".join(sorted(suffixes))
