"""Killed at any moment, a gateway comes back with every operation wholly done or not at all.

STACKSERVE_CRASHES sets how often it is killed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from stackserve.client import ApiError, Client
from stackserve.store.artifacts import NEW, REMOVED
from tests.conftest import Models
from tests.running import living

CRASHES = int(os.environ.get("STACKSERVE_CRASHES", "6"))
GONE = (ApiError, httpx.HTTPError)
PATIENCE = 60.0


@contextmanager
def gateway(data: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A gateway that listens, and is killed at the end at the latest."""
    told = data.parent / "port"
    told.unlink(missing_ok=True)
    command = (sys.executable, "-m", "tests.oci.crash_child", str(data), str(told))
    child = subprocess.Popen(command, start_new_session=True)
    try:
        until = time.monotonic() + PATIENCE
        while not told.exists():
            assert child.poll() is None, "it could not be started again"
            assert time.monotonic() < until
            time.sleep(0.01)  # a file of another process announces itself by nothing else
        yield child, f"http://127.0.0.1:{told.read_text()}"
    finally:
        child.kill()
        child.wait()


def set_up(client: Client, models: Models) -> None:
    client.add_model("b", models.base)
    for name in ("x", "y"):
        client.add_model(name, models.adapter(name))
    client.create_group("one", "b", {"k": "x"})
    client.create_group("two", "b", {"k": "y"})
    client.wait(client.deploy("d", "one"))


def disturb(url: str, models: Models, numbers: Iterator[int]) -> None:
    """Upload, create and update until the gateway is gone."""
    with Client(url) as client, contextlib.suppress(*GONE):
        for group in itertools.cycle(("two", "one")):
            number = next(numbers)
            client.add_model(f"m{number}", models.adapter(f"m{number % 3}"))
            client.create_group(f"g{number}", "b", {"k": f"m{number}", "l": "x"})
            with contextlib.suppress(ApiError):  # of the last life, work may still be under way
                client.wait(client.update("d", group))


def check(url: str) -> None:
    """Everything that there is is whole, and the deployment serves one of its groups."""
    with Client(url) as client:
        until = time.monotonic() + PATIENCE
        while client.deployment("d").state != "ACTIVE":
            assert time.monotonic() < until, client.deployment("d")
            time.sleep(0.02)
        served = client.deployment("d")
        group = client.group(served.group)
        assert group.name in ("one", "two")
        body = {"model": "k", "prompt": "whoami"}
        answer = httpx.post(f"{served.url}/predict", json=body).raise_for_status()
        facts = client.model(group.members["k"]).facts
        assert answer.json()["choices"][0]["text"] == f"k@{facts['digest']}"
        for each in client.groups():
            whole = client.group(each.id)
            assert len(whole.members) in (2, 3)
        for model in client.models():
            if model.kind is not None:
                content = f"{url}/20190101/models/{model.id}/artifact/content"
                httpx.get(content).raise_for_status()


@pytest.mark.timeout(60 + 20 * CRASHES)
def test_a_gateway_that_is_killed_comes_back_whole(tmp_path: Path, models: Models) -> None:
    data, numbers, dice = tmp_path / "data", itertools.count(), random.Random(0)
    with gateway(data) as (_, url), Client(url) as client:
        set_up(client, models)
    for _ in range(CRASHES):
        with gateway(data) as (child, url):
            check(url)
            work = threading.Thread(target=disturb, args=(url, models, numbers))
            work.start()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(dice.uniform(0, 0.8))
            child.kill()
            child.wait()
            work.join()
    with gateway(data) as (child, url):
        check(url)
    assert not [pid for pid in living(child.pid) if pid != child.pid]
    names = [entry.name for entry in (data / "artifacts").iterdir()]
    assert not [name for name in names if name.startswith((NEW, REMOVED))], "nothing half is left"
