"""A group that embeds: the base and its fine-tunes, each with its own vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import openai
import pytest

from tests.engine.server import running_server

pytestmark = pytest.mark.usefixtures("demo_base")


async def test_a_pooling_group_embeds_by_key_and_does_not_chat(tmp_path: Path) -> None:
    group = {
        "name": "vectors",
        "base": {"path": "demo:base"},
        "members": [{"key": "pirate", "path": "demo:pirate"}],
        "engine": {"runner": "pooling", "max_model_len": 512},
    }
    file = tmp_path / "vectors.yaml"
    file.write_text(json.dumps({"groups": [group]}))
    with running_server(tmp_path / "run", "serve", str(file), "--port", "0") as server:
        server.wait_ready()
        async with server.client() as client:
            found = {
                key: (await client.embeddings.create(model=key, input=["a ship", "a goat"])).data
                for key in ("base", "pirate")
            }
            with pytest.raises(openai.BadRequestError, match=r"it serves /v1/embeddings"):
                await client.completions.create(model="base", prompt="hello")
    ship, goat = (np.array(item.embedding) for item in found["base"])
    assert ship.shape == (576,)
    assert not np.allclose(ship, goat)
    assert not np.allclose(ship, np.array(found["pirate"][0].embedding))
