"""stackserve as a target: the configuration that the benchmark writes for it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.oip_models import Encoding
from benchmarks.oip_servers import BATCH_ROWS, Launch, ServedModel, Target

OURS = "stackserve"
CONFIG = "stackserve.yaml"
GROUP = "models"


def ours(memory_mib: int) -> Target:
    """Its models share so much memory."""
    return Target(
        OURS,
        tuple(Encoding),
        partial(prepare_ours, memory_mib),
        evicts=True,
        has_statistics=True,
    )


def prepare_ours(memory_mib: int, models: Sequence[ServedModel], folder: Path) -> Launch:
    config = folder / CONFIG
    config.write_text(yaml.safe_dump(our_config(memory_mib, models), sort_keys=False))
    program = Path(sys.executable).parent / OURS
    return Launch((str(program), "serve", str(config)), None, "/readyz")


def our_config(memory_mib: int, models: Sequence[ServedModel]) -> dict[str, Any]:
    members = [
        {
            "key": each.name,
            "path": str(each.folder),
            "batching": {"max_rows": BATCH_ROWS if each.batched else 1},
        }
        for each in models
    ]
    group = {
        "name": GROUP,
        "kind": "homogeneous",
        "runtime": "onnx",
        "memory_mib": memory_mib,
        "members": members,
    }
    return {"server": {"port": 0}, "groups": [group]}
