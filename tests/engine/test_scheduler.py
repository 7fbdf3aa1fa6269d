"""Whichever scheduler is put in the place of vLLM's does what vLLM's does; no engine is started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.scheduler_checks import cases

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By case, how it failed. One process for all: importing vllm is slow, its warnings are not ours."""
    file = tmp_path_factory.mktemp("scheduler") / "outcomes.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.scheduler_checks", str(file)],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told: dict[str, str] = json.loads(file.read_text())
    return told


@pytest.mark.parametrize("case", [case for case, *_ in cases()])
def test_the_scheduler(outcomes: dict[str, str], case: str) -> None:
    assert outcomes[case] == "", outcomes[case]
