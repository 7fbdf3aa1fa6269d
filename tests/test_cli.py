"""The real command line as a process: soon listening, honest about failures, and quick to end."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from stackserve.cli import main
from tests.running import PATIENCE, cpu_seconds

BROKEN = "groups:\n  - name: g\n    base: {path: nowhere}\n"
ON_TERMINAL = """
import os, signal, sys
os.open(sys.argv[1], os.O_RDWR)  # the first one that a session opens is its own
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
LISTENING_CPU_SECONDS = 2.0
"""Work until the address answers. Measured as CPU time: the cores are shared."""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration whose base does not exist; what is written goes beside it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("STACKSERVE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "c.yaml"
    path.write_text(BROKEN)
    return path


@contextmanager
def serving(file: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = (sys.executable, "-m", "stackserve", "serve", str(file), *arguments)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def url_of(printed: IO[str]) -> str:
    """Where a server says that it listens."""
    for line in printed:
        if found := re.search(r"listening on (http://\S+);", line):
            return found[1]
    raise AssertionError("it ended without listening")


def get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_listens_soon_says_why_a_group_failed_and_ends_with_sigterm(file: Path) -> None:
    with serving(file, "--port", "0") as process:
        assert process.stderr is not None
        url = url_of(process.stderr)
        assert cpu_seconds(process.pid) < LISTENING_CPU_SECONDS
        assert get(f"{url}/livez") == (200, {"status": "alive"})
        while (ready := get(f"{url}/readyz"))[1]["status"] == "loading":
            pass
        status, (group,) = ready[0], ready[1]["groups"]
        assert (status, group["state"]) == (503, "failed")
        assert "(base_missing)" in group["detail"]
        assert any("g failed: " in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_sighup_reads_the_file_again_and_a_wrong_one_does_not_end_the_server(file: Path) -> None:
    with serving(file, "--port", "0") as process:
        assert process.stderr is not None
        url = url_of(process.stderr)
        file.write_text(BROKEN + "sever: {}\n")
        process.send_signal(signal.SIGHUP)
        assert any(f"{file}:4: sever: unknown key" in line for line in process.stderr)
        assert get(f"{url}/livez") == (200, {"status": "alive"})
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_ends_when_its_terminal_closes(file: Path) -> None:
    terminal, other_end = pty.openpty()
    on_terminal = (sys.executable, "-c", ON_TERMINAL, os.ttyname(other_end))
    command = (*on_terminal, "-m", "stackserve", "serve", str(file), "--port", "0")
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        url_of(process.stderr)
        os.close(other_end)
        os.close(terminal)
        assert process.wait(PATIENCE) == 0


def test_a_taken_port_is_one_line_and_exit_code_2(file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serving(file, "--port", str(port)) as process:
            _, printed = process.communicate(timeout=PATIENCE)
    *_, last = printed.splitlines()
    assert process.returncode == 2
    assert last == (
        f"cannot listen on 127.0.0.1 port {port}: Address already in use; "
        "choose another with --port (0 takes a free one)"
    )
    assert "Traceback" not in printed


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_wrong_file_is_told_by_line_and_exit_code_2(
    file: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(BROKEN + "sever: {}\n")
    assert main([command, str(file)]) == 2
    assert capsys.readouterr().err == (
        f"{file}:4: sever: unknown key; did you mean server? allowed: groups, server\n"
    )


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["check"], ["serve", "x", "--port", "y"]])
def test_wrong_arguments_are_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: stackserve" in capsys.readouterr().err


def test_an_ipv6_address_is_taken_as_it_is_written(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(file), "--host", "::", "--port", "70000"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "server.port: 70000" in line


def test_check_fails_when_something_would_not_be_served(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(file)]) == 1
    assert "(base_missing)" in capsys.readouterr().out


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert re.fullmatch(r"stackserve \d+\.\d+\.\d+\n", capsys.readouterr().out)
