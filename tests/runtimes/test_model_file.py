from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from stackserve.runtimes.base import ModelFiles, ModelRefused
from stackserve.runtimes.model_file import find_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "outside.a").touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


def found(folder: Path, **asked: Any) -> str:
    files = ModelFiles(folder, allow_unsafe=asked.pop("allow_unsafe", False))
    return find_file(files, {".a"}, unsafe={".pkl"}, **asked).name


def code(folder: Path, **asked: Any) -> str:
    with pytest.raises(ModelRefused) as refused:
        found(folder, **asked)
    return refused.value.code


def test_the_only_file_of_a_suffix_is_the_model(folder: Path) -> None:
    for name in ("m.a", "README.md", "old.pkl"):
        (folder / name).touch()
    assert found(folder) == "m.a"


def test_the_usual_name_comes_before_others_and_the_chosen_one_before_it(folder: Path) -> None:
    for name in ("model.a", "other.a"):
        (folder / name).touch()
    assert found(folder, usual="model.a") == "model.a"
    assert found(folder, usual="model.a", chosen="other.a") == "other.a"
    assert code(folder) == "format_ambiguous"


def test_an_unsafe_file_counts_only_where_it_is_allowed(folder: Path) -> None:
    (folder / "m.pkl").touch()
    assert code(folder) == "unsafe_format"
    assert code(folder, chosen="m.pkl") == "unsafe_format"
    assert found(folder, allow_unsafe=True) == "m.pkl"


@pytest.mark.parametrize("name", ["../outside.a", "/etc/passwd", "..", "a/b.a", ""])
def test_a_chosen_file_lies_in_the_folder(folder: Path, name: str) -> None:
    assert code(folder, chosen=name) in {"invalid_options", "format_unknown"}


def test_a_link_that_leaves_the_folder_is_refused(folder: Path) -> None:
    os.symlink(folder.parent / "outside.a", folder / "m.a")
    assert code(folder) == "file_outside"
    assert code(folder, chosen="m.a") == "file_outside"


def test_a_pipe_is_no_file(folder: Path) -> None:
    os.mkfifo(folder / "m.a")
    assert code(folder) == "format_unknown"
    assert code(folder, chosen="m.a") == "file_missing"


def test_an_empty_folder_is_told_what_it_needs(folder: Path) -> None:
    assert code(folder) == "format_unknown"
