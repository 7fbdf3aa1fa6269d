"""Small files, small functions, telling names, and nothing of anybody's home; exceptions are listed."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("stackserve/**/*.py"), *ROOT.glob("kernels/**/*.py")])

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 59
NO_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers"}
HOME = re.compile(r"(?<![\w.~$}])/(?:home|Users)/(?!me\b|runner\b)\w+|/root/\w")

ALLOWED: dict[str, str] = {
    "stackserve/store/migrations/versions/0001_the_first_schema.py:upgrade": "a schema is a list of tables",
}
"""`path` or `path:function`: why the rule makes this one worse."""


def name(source: Path) -> str:
    return source.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("source", SOURCES, ids=name)
def test_a_file_and_its_functions_are_small(source: Path) -> None:
    text = source.read_text()
    sizes = {name(source): (text.count("\n"), MAX_FILE_LINES)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            sizes[f"{name(source)}:{node.name}"] = (lines, MAX_FUNCTION_LINES)
    large = {place: size for place, (size, most) in sizes.items() if size > most}
    assert not large.keys() - ALLOWED.keys()


def test_a_file_is_named_for_what_it_owns() -> None:
    assert not [name(source) for source in SOURCES if source.stem in NO_NAMES]


@pytest.mark.parametrize("source", SOURCES, ids=name)
def test_a_module_says_first_what_it_is(source: Path) -> None:
    assert ast.get_docstring(ast.parse(source.read_text()))


def test_no_file_names_a_home() -> None:
    listed = subprocess.run(("git", "ls-files", "-z"), cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    found = []
    for tracked in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / tracked
        content = path.read_bytes() if path.is_file() else b""
        if b"\0" not in content and HOME.search(content.decode("utf-8", "replace")):
            found.append(tracked)
    assert not found


def test_the_list_of_exceptions_names_what_exists() -> None:
    assert all((ROOT / each.partition(":")[0]).is_file() for each in ALLOWED)
