"""The zoo: made once, served, and every model answers over HTTP what its framework says itself."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stackserve.configfile import load_settings
from stackserve.demo import zoo
from stackserve.demo.flowers import iris
from stackserve.errors import ConfigError
from stackserve.locations import locate
from stackserve.runtime_settings import RuntimeGroupSettings
from tests.running import Running, running

TENANTS = 4
ROWS = iris()[0][::10]
PATIENCE = 60.0


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo's file, beside its models."""
    return zoo.ensure_zoo(tmp_path_factory.mktemp("zoo"), lambda *_: None, tenants=TENANTS)


async def test_each_framework_answers_the_same_rows_as_when_called_directly(config: Path) -> None:
    flowers = group(config, "flowers")
    direct = directly(config.parent / "flowers")
    assert {f"iris-{framework}" for framework in direct} == {each.key for each in flowers.members}
    async with serving(flowers, config) as served:
        for framework, expected in direct.items():
            answer = await ask(served, f"iris-{framework}")
            np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-6, err_msg=framework)


async def test_each_tenant_has_a_model_of_its_own(config: Path) -> None:
    tenants = group(config, "tenants")
    async with serving(tenants, config) as served:
        answers = [await ask(served, f"t{n:03}") for n in range(TENANTS)]
    for n, answer in enumerate(answers):
        expected = onnx_says(config.parent / "tenants" / f"t{n:03}")
        np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-6)
    assert len({answer.tobytes() for answer in answers}) == TENANTS


def test_every_model_knows_nearly_all_flowers(config: Path) -> None:
    kinds = iris()[1][::10]
    for framework, expected in directly(config.parent / "flowers").items():
        assert (expected.argmax(1) == kinds).mean() > 0.9, framework


def test_what_is_there_is_kept_and_what_is_missing_is_made_the_same_again(config: Path) -> None:
    root = config.parent
    before = {path: path.read_bytes() for path in (root / "tenants").rglob("*.onnx")}
    written = {path: path.stat().st_mtime_ns for path in root.glob("flowers/*/*")}
    shutil.rmtree(root / "tenants")
    (root / ".work-left-behind").mkdir()
    assert zoo.ensure_zoo(root, lambda *_: None, tenants=TENANTS) == config
    assert {path: path.read_bytes() for path in before} == before
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert {path.name for path in root.iterdir()} == {".lock", "flowers", "tenants", zoo.CONFIG}


def test_the_zoos_file_has_groups_of_all_three_kinds(config: Path) -> None:
    groups = load_settings(config).groups
    assert {each.kind for each in groups} == {"heterogeneous", "homogeneous", "stacked"}


def test_the_whole_zoo_has_as_many_tenants_as_a_group_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "write_tenant", lambda folder, seed: None)
    monkeypatch.setattr(zoo, "FLOWERS", {"onnx": lambda folder: None})
    made = zoo.ensure_zoo(tmp_path, lambda *_: None)
    assert len(group(made, "tenants").members) == 500


def test_a_folder_that_cannot_be_written_to_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"could not be written .* set STACKSERVE_CACHE"):
        zoo.ensure_zoo(tmp_path / "file" / "zoo", lambda *_: None)


def group(config: Path, name: str) -> RuntimeGroupSettings:
    return next(each for each in load_settings(config).of_runtimes if each.name == name)


@asynccontextmanager
async def serving(group: RuntimeGroupSettings, config: Path) -> AsyncIterator[Running]:
    """The group is ready; five frameworks are imported by then, so more patience is had than elsewhere."""
    async with running(group, until=None, locate=partial(locate, config_file=config)) as served:
        async with asyncio.timeout(PATIENCE):
            while served.status(group.name).state != "ready":
                await served.gateway.changed()
        yield served


async def ask(served: Running, key: str) -> np.ndarray[Any, Any]:
    """What a model says of the rows; its one output."""
    shape = list(ROWS.shape)
    data = ROWS.ravel().tolist()
    question = {"inputs": [{"name": "input", "datatype": "FP32", "shape": shape, "data": data}]}
    async with served.http.post(f"/v2/models/{key}/infer", json=question) as response:
        answer = await response.json()
        assert response.status == 200, answer
    (output,) = answer["outputs"]
    return np.array(output["data"], np.float64).reshape(output["shape"])


def directly(flowers: Path) -> dict[str, np.ndarray[Any, Any]]:
    """What each framework says of the rows, without stackserve."""
    import lightgbm
    import skops.io
    import torch
    import xgboost
    from safetensors.torch import load_file

    network = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    network.load_state_dict(load_file(flowers / "torch" / "model.safetensors"))
    trees = xgboost.Booster(model_file=flowers / "xgboost" / "model.ubj")
    forest = skops.io.load(flowers / "sklearn" / "model.skops", trusted=["sklearn.tree._tree.Tree"])
    return {
        "onnx": onnx_says(flowers / "onnx"),
        "sklearn": forest.predict_proba(ROWS),
        "xgboost": trees.predict(xgboost.DMatrix(ROWS)),
        "lightgbm": lightgbm.Booster(model_file=flowers / "lightgbm" / "model.txt").predict(ROWS),
        "torch": network(torch.from_numpy(ROWS.copy())).detach().numpy(),
    }


def onnx_says(folder: Path) -> np.ndarray[Any, Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (told,) = session.run(None, {"input": ROWS})
    return np.asarray(told)
