"""The demo as a newcomer meets it: five answers, snippets that work as printed, nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from stackserve.demo.behaviours import BEHAVIOURS
from tests.engine.conftest import KEYS
from tests.engine.server import (
    Server,
    descendants,
    is_alive,
    running_server,
    shared_memory,
    wait_until,
)

pytestmark = pytest.mark.usefixtures("demo_base")


@pytest.fixture(scope="module")
def demo(before: set[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("demo") / "run"
    with running_server(folder, "demo", "--port", "0") as server:
        wait_until(lambda: "until Ctrl-C" in server.printed(), 240, server.printed)
        yield server


def answers_in(printed: str) -> dict[str, str]:
    """Key → what the terminal shows of its answer."""
    blocks = re.findall(r"^ *(\w+)  .*(?:adapter \w+|no adapter)\n {10}(.*)$", printed, re.M)
    return dict(blocks)


def test_the_terminal_shows_five_answers_each_with_its_behaviour(demo: Server) -> None:
    answers = answers_in(demo.printed())
    assert list(answers) == list(KEYS)
    assert "Paris" in answers["base"]
    for each in BEHAVIOURS:
        assert each.shows(answers[each.key]), each.key


@pytest.mark.parametrize(
    ("begins", "ends", "program"),
    [
        ("curl", "\n\n", ["sh", "-c"]),
        ("from openai", "\nServing", [sys.executable, "-c"]),
    ],
    ids=["curl", "openai"],
)
def test_the_printed_snippets_work_as_they_are(
    demo: Server, begins: str, ends: str, program: list[str]
) -> None:
    printed = demo.printed()
    start = printed.index(f"\n{begins}")
    snippet = printed[start : printed.index(ends, start)]
    done = subprocess.run(
        [*program, snippet], capture_output=True, text=True, timeout=60, check=True
    )
    assert "Arr" in done.stdout


def test_kill_9_of_the_gateway_takes_the_engine_with_it_and_leaves_nothing(
    demo: Server, before: set[str]
) -> None:
    engine = descendants(demo.process.pid)
    assert len(engine) >= 3
    os.kill(demo.process.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, engine)), 10)
    wait_until(lambda: shared_memory() <= before, 10)
    assert not list(demo.scratch.iterdir())


def test_once_prints_the_answers_and_exits_with_0() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stackserve", "demo", "--once"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(answers_in(done.stdout)) == list(KEYS)
    assert "starting the engine" in done.stderr
