from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from stackserve.runtimes.base import BadInput, Model, ModelFiles, ModelRefused, TensorSpec
from stackserve.runtimes.lightgbm import LightgbmRuntime
from stackserve.runtimes.lightgbm_text import BadText, checked

IRIS, SPECIES = load_iris(return_X_y=True)


def train(x: Any = IRIS, y: Any = SPECIES, rounds: int = 5, **parameters: Any) -> Any:
    fixed = {"num_threads": 1, "verbosity": -1, "num_leaves": 7, "min_data_in_leaf": 5}
    categories = parameters.pop("categorical_feature", "auto")
    data = lightgbm.Dataset(x, y, categorical_feature=categories)
    return lightgbm.train(fixed | parameters, data, rounds)


def classifier() -> Any:
    return train(objective="multiclass", num_class=3)


def load(folder: Path, booster: Any, name: str = "model.txt", **options: Any) -> Model:
    booster.save_model(folder / name)
    return LightgbmRuntime().load(ModelFiles(folder, options))


def refusal(folder: Path, data: bytes) -> ModelRefused:
    (folder / "model.txt").write_bytes(data)
    with pytest.raises(ModelRefused) as refused:
        LightgbmRuntime().load(ModelFiles(folder))
    return refused.value


@pytest.mark.parametrize("name", ["model.txt", "iris.lgb"])
def test_the_probabilities_are_those_of_lightgbm(tmp_path: Path, name: str) -> None:
    booster = classifier()
    model = load(tmp_path, booster, name)

    assert model.metadata.inputs == (TensorSpec("input", "FP64", (-1, 4)),)
    assert model.metadata.outputs == (TensorSpec("output", "FP64", (-1, 3)),)
    output = model.infer({"input": IRIS}, ["output"])["output"]
    np.testing.assert_array_equal(output, booster.predict(IRIS, num_threads=1))


CATEGORIES = np.random.default_rng(0).integers(0, 40, (442, 2)).astype(float)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"objective": "poisson"},
        {"objective": "quantile", "alpha": 0.9},
        {"boosting": "dart"},
        {"boosting": "rf", "bagging_fraction": 0.5, "bagging_freq": 1},
        {"linear_tree": True},
        {"categorical_feature": [0, 1], "max_cat_to_onehot": 1, "min_data_per_group": 2},
        {"min_data_in_leaf": 400},
        {"monotone_constraints": [1] * 12},
    ],
    ids=str,
)
def test_every_kind_of_tree_gives_its_numbers(tmp_path: Path, parameters: dict[str, Any]) -> None:
    x, y = load_diabetes(return_X_y=True)
    x = np.concatenate([CATEGORIES, x], axis=1)
    booster = train(x, y, **parameters)
    output = load(tmp_path, booster).infer({"input": x}, ["output"])["output"]
    reread = lightgbm.Booster(model_file=tmp_path / "model.txt")
    np.testing.assert_array_equal(output, reread.predict(x, num_threads=1))
    np.testing.assert_allclose(output, booster.predict(x, num_threads=1), rtol=1e-6)


def test_raw_scores_and_floats_on_demand(tmp_path: Path) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    booster = train(x, y, objective="binary")
    model = load(tmp_path, booster, raw_score=True, datatype="FP32")
    rows = x.astype(np.float32)
    assert model.metadata.inputs[0].datatype == "FP32"
    output = model.infer({"input": rows}, ["output"])["output"]
    np.testing.assert_array_equal(output, booster.predict(rows, raw_score=True, num_threads=1))


def test_rows_of_two_requests_give_together_what_each_gives_alone(tmp_path: Path) -> None:
    model = load(tmp_path, classifier())
    together = model.infer({"input": IRIS}, ["output"])["output"]
    alone = [model.infer({"input": part}, ["output"])["output"] for part in (IRIS[:1], IRIS[1:])]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_no_row_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        load(tmp_path, classifier()).infer({"input": IRIS[:0]}, ["output"])


def test_a_model_is_asked_in_many_threads_at_once(tmp_path: Path) -> None:
    model = load(tmp_path, classifier())
    expected = model.infer({"input": IRIS}, ["output"])["output"]
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(lambda _: model.infer({"input": IRIS}, ["output"])["output"], range(64))
        )
    assert all(np.array_equal(answer, expected) for answer in answers)


def test_garbage_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(3000)
    for data in (
        b"",
        b"tree\n",
        b"tree\nversion=v4\n",
        noise,
        b"tree\n" + noise,
        b"\0" * 99,
        b"pmml",
    ):
        assert refusal(tmp_path, data).code == "invalid_model"


def test_a_file_that_is_cut_off_in_its_trees_is_refused(tmp_path: Path) -> None:
    whole = classifier().model_to_string().encode()
    trees = whole.index(b"end of trees")
    for end in range(0, trees, trees // 100):
        assert refusal(tmp_path, whole[:end]).code == "invalid_model"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"split_feature=2", b"split_feature=9"),
        (b"left_child=1", b"left_child=9"),
        (b"left_child=1", b"left_child=0"),
        (b"right_child=-2", b"right_child=-9"),
        (b"num_leaves=4", b"num_leaves=9"),
        (b"threshold=", b"threshold=x"),
        (b"shrinkage=1\n\n", b"shrinkage=1\n1"),
        (b"shrinkage=1\n", b"\n\nrinkage=1\n"),
        (b"decision_type=2", b"decision_type=1"),
        (b"num_tree_per_iteration=3", b"num_tree_per_iteration=1"),
        (b"multiclass num_class:3", b"multiclass num_class:9"),
        (b"tree_sizes=", b"tree_sizes=1"),
        (b"max_feature_idx=3", b"max_feature_idx=0"),
    ],
)
def test_a_tree_that_leaves_itself_is_refused_before_it_ends_the_process(
    tmp_path: Path, old: bytes, new: bytes
) -> None:
    whole = classifier().model_to_string().encode()
    # As long as before, so that tree_sizes stays right.
    assert old in whole
    assert refusal(tmp_path, whole.replace(old, new, 1)).code == "invalid_model"


READ_ALL = """
import sys, numpy, lightgbm
from pathlib import Path
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        booster = lightgbm.Booster(model_str=path.read_text())
        booster.predict(numpy.ones((9, 4)), num_threads=1)
    except (lightgbm.basic.LightGBMError, ValueError):
        pass
"""


def test_what_passes_the_check_does_not_end_the_process(tmp_path: Path) -> None:
    whole = classifier().model_to_string().encode()
    numbers = np.random.default_rng(3)
    passed = 0
    for number in range(600):
        data = bytearray(whole)
        for place in numbers.integers(len(data), size=numbers.integers(1, 4)):
            data[place] = b"0123456789-. =\n"[numbers.integers(15)]
        try:
            text = checked(bytes(data))
        except BadText:
            continue
        passed += 1
        (tmp_path / f"{number}.txt").write_bytes(text)
    assert 50 < passed < 550
    command = (sys.executable, "-c", READ_ALL, str(tmp_path))
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
