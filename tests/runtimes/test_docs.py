"""The runtime that docs/runtimes.md shows is a runtime."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stackserve.runtimes.base import ModelFiles, ModelRefused

DOCS = Path(__file__).parents[2] / "docs" / "runtimes.md"


def test_the_runtime_of_the_docs_loads_and_infers_in_forty_lines(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 40
    names: dict[str, Any] = {}
    exec(code, names)
    runtime, files = names["TableRuntime"](), ModelFiles(tmp_path)
    with pytest.raises(ModelRefused, match=r"table\.json cannot be read"):
        runtime.load(files)
    (tmp_path / "table.json").write_text("[1.5, 2.5]")
    assert runtime.estimate(files) > 0
    values = runtime.load(files).infer({"row": np.array([1, 2])}, ["value"])["value"]
    assert values.tolist() == [2.5, 1.5]
