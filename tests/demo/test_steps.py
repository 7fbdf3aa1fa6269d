"""The steps of making the base: child processes, the disk's digest, and a settled tokenizer."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from stackserve.demo.child import ChildFailed, run_child
from stackserve.demo.convert import settle_tokenizer
from stackserve.demo.digest import tensors_sha256


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_child_is_watched(tmp_path: Path) -> None:
    seen: list[str] = []
    code = "import time; print('tokenizer', flush=True); time.sleep(1)"
    run_child(python(code), log_dir=tmp_path, on_tick=seen.append)
    assert seen[-1] == "tokenizer"


def test_failed_child_says_its_last_line(tmp_path: Path) -> None:
    code = "import sys; print('first', file=sys.stderr); sys.exit('no such package')"
    with pytest.raises(ChildFailed, match=r"^no such package$"):
        run_child(python(code), log_dir=tmp_path, on_tick=lambda _line: None)


def test_silent_failure_gives_the_exit_code(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match="exit code 3"):
        run_child(python("raise SystemExit(3)"), log_dir=tmp_path, on_tick=lambda _line: None)


def test_interrupted_parent_leaves_no_child(tmp_path: Path) -> None:
    seen: list[str] = []

    def interrupt(line: str) -> None:
        if line:
            seen.append(line)
            raise KeyboardInterrupt

    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with pytest.raises(KeyboardInterrupt):
        run_child(python(code), log_dir=tmp_path, on_tick=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(seen[0]), 0)


def test_cut_weights_have_no_digest(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"abc")
    with pytest.raises(ValueError, match="ends inside tensor w"):
        tensors_sha256(path)


def test_tokenizers_of_two_releases_become_one(tmp_path: Path) -> None:
    ends = [{"content": f"<{number}>"} for number in range(2)] + [{"content": "<|im_end|>"}]
    written = []
    for decoder, fuse in (({"type": "Sequence"}, True), (None, False)):
        tokenizer = {
            "added_tokens": ends,
            "decoder": decoder,
            "model": {"vocab": {"a": 0}, "fuse_unk": fuse},
        }
        (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
        settle_tokenizer(tmp_path)
        written.append(json.loads((tmp_path / "tokenizer.json").read_text()))
    assert written[0] == written[1]
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"


def test_another_end_of_turn_is_refused(tmp_path: Path) -> None:
    tokenizer = {"added_tokens": [{"content": "<a>"}] * 3, "model": {}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(SystemExit, match="im_end"):
        settle_tokenizer(tmp_path)
