"""What a report says of the machine, out of what Linux says of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.engines import engine_environment
from benchmarks.machine import git_commit, last_level_cache, parse_cpuinfo, parse_size, this_machine


def test_the_cpus_name_and_telling_flags_are_read() -> None:
    text = "processor : 0\nmodel name\t: A: B\nflags\t\t: fpu avx2 amx_bf16\n\nprocessor : 1\nmodel name\t: C\n"
    assert parse_cpuinfo(text) == ("A: B", ("amx_bf16", "avx2"))
    assert parse_cpuinfo("") == ("unknown", ())


def test_sizes_are_read_as_linux_writes_them() -> None:
    assert [parse_size(text) for text in ("480M\n", "2048K", "1G", "12", "")] == [
        480 << 20, 2 << 20, 1 << 30, 12, 0,
    ]  # fmt: skip


def test_the_largest_cache_counts(tmp_path: Path) -> None:
    for number, size in enumerate(("48K", "30M", "2M")):
        (tmp_path / f"index{number}").mkdir()
        (tmp_path / f"index{number}" / "size").write_text(size)
    assert last_level_cache(tmp_path) == 30 << 20
    assert last_level_cache(tmp_path / "none") == 0


def test_this_machine_has_cores_and_memory() -> None:
    machine = this_machine()
    assert machine.cores >= 1
    assert machine.memory_bytes > 2**28


def test_a_commit_says_whether_the_tree_has_changes(tmp_path: Path) -> None:
    assert git_commit(tmp_path) == "unknown"
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    for command in (("init", "-q"), (*identity, "commit", "-q", "--allow-empty", "-m", "x")):
        subprocess.run(("git", "-C", str(tmp_path), *command), check=True)
    assert len(git_commit(tmp_path)) == 40
    (tmp_path / "new").touch()
    assert git_commit(tmp_path).endswith("+changes")


def test_the_plug_in_is_kept_out_or_let_in_whatever_the_shell_says() -> None:
    inherited = {"VLLM_PLUGINS": "others", "HOME": "x"}
    assert engine_environment(inherited, plugin=False)["VLLM_PLUGINS"] == ""
    assert "VLLM_PLUGINS" not in engine_environment(inherited, plugin=True)
    assert engine_environment(inherited, plugin=True)["HOME"] == "x"
