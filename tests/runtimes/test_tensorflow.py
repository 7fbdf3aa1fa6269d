"""SavedModels, in an interpreter that has TensorFlow: stackserve's own needs none."""

from __future__ import annotations

import ast
import json
import os
import subprocess
from pathlib import Path

import pytest

CHECKS = Path(__file__).with_name("saved_model_checks.py")
VARIABLE = "STACKSERVE_TENSORFLOW_PYTHON"
PYTHON = os.environ.get(VARIABLE)

pytestmark = pytest.mark.skipif(
    not PYTHON,
    reason=f"{VARIABLE} names no interpreter with TensorFlow: python3.11 -m venv tf && tf/bin/pip install "
    f"tensorflow-cpu msgspec numpy, then {VARIABLE}=tf/bin/python",
)


def names() -> list[str]:
    """Of the checks, without importing them."""
    for node in ast.parse(CHECKS.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CHECKS":
            return [element.id for element in ast.walk(node.value) if isinstance(element, ast.Name)]
    raise AssertionError("there are no checks")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        (str(PYTHON), str(CHECKS), str(tmp_path_factory.mktemp("saved"))),
        env={**os.environ, "PYTHONPATH": str(root), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("check", names())
def test_of_saved_models_it_is_true_that(check: str, results: dict[str, str | None]) -> None:
    assert results[check] is None, results[check]
