"""What tests ask of a model's artifact."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from oci.data_science import models as m

from stackserve.oci.api import PREFIX
from tests.oci.served import OWNER, Served

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PATIENCE = 30.0


def empty(served: Served) -> str:
    """A model without an artifact."""
    return str(served.client.create_model(m.CreateModelDetails(**OWNER)).data.id)


def facts(served: Served, model: str) -> Any:
    answer = httpx.get(f"{served.url}{PREFIX}/models/{model}")
    return answer.json().get("x-stackserve")


def register(served: Served, model: str, path: str | Path) -> httpx.Response:
    reference = {"modelArtifactReferenceType": "LOCAL_FOLDER", "path": str(path)}
    return httpx.post(
        f"{served.url}{PREFIX}/models/{model}/actions/registerArtifactReference",
        json={"modelArtifactReferences": [reference]},
        timeout=30,
    )


def files_of(served: Served, model: str) -> dict[str, bytes]:
    content = served.client.get_model_artifact_content(model).data.content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def until(holds: Callable[[], bool]) -> None:
    """Wait for what the server does on its own."""
    latest = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < latest
        time.sleep(0.01)


def kept(data: Path) -> list[str]:
    """What is in the artifact store, leftovers included."""
    root = data / "artifacts"
    return sorted(each.name for each in root.iterdir() if not each.name.endswith("lock"))
