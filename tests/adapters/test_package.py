"""What importing the package costs, and whether its page tells the truth."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import stackserve.adapters
from stackserve.adapters import Code
from stackserve.adapters.features import HARMLESS, REFUSED_IF_SET
from stackserve.adapters.served_modules import SERVED

ROOT = Path(stackserve.adapters.__file__).parents[2]
PAGE = (ROOT / "docs" / "adapters.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading of the page."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_importing_the_package_loads_nothing_heavy() -> None:
    check = (
        "import sys, stackserve.adapters;"
        "print([m for m in ('torch','vllm','transformers','peft','numpy','safetensors')"
        " if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "[]"


def test_the_page_lists_exactly_the_codes_that_exist() -> None:
    rows = [row for row in table("Codes") if row[0].startswith("`")]
    assert [row[0].strip("`") for row in rows] == [code.value for code in Code]
    assert all(len(row) == 3 and all(row) for row in rows)


def test_every_code_is_raised_somewhere() -> None:
    sources = [p.read_text() for p in (ROOT / "stackserve" / "adapters").glob("*.py")]
    used = {name for source in sources for name in re.findall(r"Code\.([A-Z_]+)", source)}
    assert used == {code.name for code in Code}


def test_the_page_lists_every_served_architecture() -> None:
    assert [row[0].strip("`") for row in table("Served bases")] == list(SERVED)


def test_the_page_names_every_refused_field() -> None:
    for field in REFUSED_IF_SET:
        assert f"`{field}`" in PAGE


def test_every_field_of_the_installed_peft_is_decided() -> None:
    """A new PEFT field must be sorted into harmless or refused; read from source, not imported."""
    candidates = [Path(entry) / "peft" / "tuners" / "lora" / "config.py" for entry in sys.path]
    source = next((path for path in candidates if path.exists()), None)
    if source is None:
        pytest.skip("peft is not installed")
    body = source.read_text().split("class LoraConfig(")[1].split("\n    def ")[0]
    declared = set(re.findall(r"^    ([a-z_]+):\s", body.split('"""')[2], flags=re.MULTILINE))
    decided = HARMLESS | REFUSED_IF_SET.keys() | {"bias", "init_lora_weights"}
    assert len(declared) > 25
    assert declared <= decided
