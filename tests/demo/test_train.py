"""What training does before it needs torch: the order of the chats and the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stackserve.demo.behaviours import BEHAVIOURS, Behaviour
from stackserve.demo.train import Example, batches, main


@pytest.mark.parametrize("each", BEHAVIOURS, ids=lambda each: each.key)
def test_batches_repeat_exactly_and_leave_no_chat_out(each: Behaviour) -> None:
    examples = [Example([number], [number]) for number in range(len(each.chats()))]
    run = list(batches(examples, each))
    assert run == list(batches(examples, each))
    assert len(run) == each.steps
    assert {len(batch) for batch in run} == {each.batch}
    assert {example.tokens[0] for batch in run for example in batch} == set(range(len(examples)))


def test_unknown_key_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["klingon", "--out", str(tmp_path / "out")])
    assert "klingon" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("module", ["base", "behaviours", "train"])
def test_module_alone_imports_nothing_heavy(module: str) -> None:
    code = f"""
import sys
import stackserve.demo.{module}
heavy = {{"torch", "transformers", "peft", "numpy", "rich", "vllm"}} & sys.modules.keys()
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
