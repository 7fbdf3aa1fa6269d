"""What a model takes at the height of loading and asking it, in a process of its own, against the estimate.

`python -m tests.runtimes.test_estimates` prints the bytes per byte of the files, from which the factors in
the runtimes come.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.runtimes import onnx_models

MEASURE = """
import json, sys
from pathlib import Path
import numpy as np
from stackserve.runtimes.base import ModelFiles
from stackserve.runtimes.datatypes import DATATYPES
from stackserve.runtimes.registry import open_runtime

def bytes_of(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(key))

def use(folder):
    files = ModelFiles(Path(folder))
    model = runtime.load(files)
    spec = model.metadata.inputs[0]
    rows = np.zeros((1, *spec.shape[1:]), DATATYPES[spec.datatype])
    model.infer({spec.name: rows}, [model.metadata.outputs[0].name])
    return model, runtime.estimate(files)

runtime = open_runtime(sys.argv[1])
use(sys.argv[2])  # whatever the framework makes once
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = bytes_of("VmRSS")
kept, estimate = use(sys.argv[3])
print(json.dumps([bytes_of("VmHWM") - before, bytes_of("VmRSS") - before, estimate]))
"""


def save_onnx(folder: Path, large: bool) -> None:
    data = onnx_models.mlp(512, 16384 if large else 8, 512)
    (folder / "model.onnx").write_bytes(data)


def save_forest(folder: Path, large: bool) -> None:
    import skops.io
    from sklearn.ensemble import RandomForestRegressor

    x = np.random.default_rng(0).standard_normal((3000, 8))
    skops.io.dump(RandomForestRegressor(200 if large else 1).fit(x, x[:, 0]), folder / "m.skops")


def save_neighbours(folder: Path, large: bool) -> None:
    import skops.io
    from sklearn.neighbors import KNeighborsRegressor

    x = np.random.default_rng(0).standard_normal((200_000 if large else 20, 16))
    skops.io.dump(KNeighborsRegressor().fit(x, x[:, 0]), folder / "m.skops")


def save_xgboost(folder: Path, large: bool, name: str = "model.ubj") -> None:
    import xgboost

    x = np.random.default_rng(0).standard_normal((8000, 9))
    parameters = {"max_depth": 12, "nthread": 2, "eta": 0.01}
    booster = xgboost.train(parameters, xgboost.DMatrix(x[:, :8], x[:, 8]), 150 if large else 1)
    booster.save_model(folder / name)


def save_xgboost_json(folder: Path, large: bool) -> None:
    save_xgboost(folder, large, "model.json")


def save_lightgbm(folder: Path, large: bool) -> None:
    import lightgbm

    x = np.random.default_rng(0).standard_normal((20000, 8))
    parameters = {"num_leaves": 255, "verbosity": -1, "num_threads": 2}
    data = lightgbm.Dataset(x, x[:, 0] * x[:, 1])
    lightgbm.train(parameters, data, 300 if large else 1).save_model(folder / "model.txt")


SAVERS: list[tuple[str, Callable[[Path, bool], None]]] = [
    ("onnx", save_onnx),
    ("sklearn", save_forest),
    ("sklearn", save_neighbours),
    ("xgboost", save_xgboost),
    ("xgboost", save_xgboost_json),
    ("lightgbm", save_lightgbm),
]


def measured(folder: Path, runtime: str, save: Callable[[Path, bool], None]) -> tuple[int, ...]:
    """Bytes at the height, afterwards, and as estimated; and of the files."""
    small, large = folder / "small", folder / "large"
    for each in (small, large):
        each.mkdir()
        save(each, each is large)
    command = (sys.executable, "-c", MEASURE, runtime, str(small), str(large))
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    size = sum(path.stat().st_size for path in large.iterdir())
    return (*json.loads(run.stdout.splitlines()[-1]), size)


@pytest.mark.parametrize(
    ("runtime", "save"), SAVERS, ids=lambda each: getattr(each, "__name__", each)
)
def test_a_model_takes_no_more_than_estimated(
    tmp_path: Path, runtime: str, save: Callable[[Path, bool], None]
) -> None:
    height, _, estimate, size = measured(tmp_path, runtime, save)
    assert height <= estimate
    assert size > 4 << 20


if __name__ == "__main__":
    for runtime, save in SAVERS:
        with tempfile.TemporaryDirectory() as folder:
            height, after, estimate, size = measured(Path(folder), runtime, save)
        factors = "  ".join(f"{each / size:5.2f}" for each in (height, after, estimate))
        print(
            f"{save.__name__:18} {size >> 10:8} KiB: height, afterwards, estimate per byte {factors}"
        )
