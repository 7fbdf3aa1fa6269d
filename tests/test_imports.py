"""The gateway stays light: it imports no engine, no framework and no arrays."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "vllm", "transformers", "peft", "numpy", "safetensors")


@pytest.mark.parametrize("module", ["serve", "check", "cli", "workers.fake"])
def test_the_gateway_imports_nothing_heavy(module: str) -> None:
    check = (
        f"import sys, stackserve.{module}; print([m for m in {HEAVY} if m in sys.modules], end='')"
    )
    result = subprocess.run((sys.executable, "-c", check), capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("[]", "")
