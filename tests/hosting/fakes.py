"""Fake models on disk, and groups of them, whose workers are real processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stackserve.runtime_settings import RuntimeGroupSettings, RuntimeMemberSettings

MIB = 1 << 20


def fake_model(folder: Path, **behaviour: Any) -> Path:
    """A model as `runtimes/fake.py` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fake.json").write_text(json.dumps(behaviour))
    return folder


def fake_group(root: Path, *, name: str = "zoo", **members: dict[str, Any]) -> RuntimeGroupSettings:
    """A group of fake models by key; `_` holds options of the group, `member` those of a member."""
    options = members.pop("_", {})
    made = []
    for key, behaviour in members.items():
        of_member = behaviour.pop("member", {})
        path = str(fake_model(root / key, **behaviour))
        made.append(RuntimeMemberSettings(key=key, path=path, **of_member))
    return RuntimeGroupSettings(
        name=name, kind="homogeneous", runtime="fake", members=tuple(made), **options
    )


def question(*rows: list[float]) -> dict[str, Any]:
    """An inference request for a fake model."""
    data = [value for row in rows for value in row]
    shape = [len(rows), len(rows[0])]
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": data}]}
