"""Real engines, each started once for all tests that can share it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from stackserve.demo.base import ensure_demo_base
from stackserve.demo.behaviours import BEHAVIOURS
from tests.engine.bad_adapters import BAD, make_bad_adapters
from tests.engine.server import Server, running_server, shared_memory

KEYS = ("base", *(each.key for each in BEHAVIOURS))
COMPOSITES = {"pirate-json": {"pirate": 0.7, "json": 1.0}, "not-terse": {"terse": -0.5, "emoji": 1}}
"""Composites of the demo's adapters on the server `exact`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session")
def demo_base() -> Path:
    """The demo's base, made now if this machine has none yet."""
    return ensure_demo_base()


@pytest.fixture(scope="module")
def before() -> set[str]:
    """The shared memory of other programs, as a file of tests begins."""
    return shared_memory()


@pytest.fixture(scope="session")
def exact(demo_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The demo group in fp32, with small chunks, raw logits, composites, and every bad adapter as a member."""
    folder = tmp_path_factory.mktemp("exact")
    make_bad_adapters(BEHAVIOURS[0].adapter, folder / "bad")
    group = {
        "name": "exact",
        "base": {"path": "demo:base"},
        "members": [
            *({"key": each.key, "path": f"demo:{each.key}"} for each in BEHAVIOURS),
            *({"key": key, "adapters": weights} for key, weights in COMPOSITES.items()),
            *({"key": key, "path": str(folder / "bad" / key)} for key in BAD),
        ],
        "engine": {
            "dtype": "float32",
            "max_model_len": 2560,
            "max_num_batched_tokens": 256,
            "kv_cache_gib": 2,
            "tool_call_parser": "hermes",
            "vllm_args": {"logprobs_mode": "raw_logits", "max_logprobs": -1},
        },
    }
    file = folder / "exact.yaml"
    file.write_text(json.dumps({"groups": [group]}))  # JSON is YAML
    with running_server(folder / "run", "serve", str(file), "--port", "0") as server:
        server.wait_ready()
        yield server
