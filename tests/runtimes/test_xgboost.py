from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from stackserve.runtimes import ubjson
from stackserve.runtimes.base import BadInput, Model, ModelFiles, ModelRefused, TensorSpec
from stackserve.runtimes.xgboost import XgboostRuntime

IRIS, SPECIES = load_iris(return_X_y=True)
ROWS = IRIS.astype(np.float32)


def train(x: Any = IRIS, y: Any = SPECIES, rounds: int = 5, **parameters: Any) -> Any:
    return xgboost.train({"nthread": 1, **parameters}, xgboost.DMatrix(x, y), rounds)


def classifier(**parameters: Any) -> Any:
    return train(objective="multi:softprob", num_class=3, **parameters)


def load(folder: Path, booster: Any, name: str = "model.ubj", **options: Any) -> Model:
    booster.save_model(folder / name)
    return XgboostRuntime().load(ModelFiles(folder, options))


def refusal(folder: Path, data: bytes, name: str = "model.json", **options: Any) -> ModelRefused:
    (folder / name).write_bytes(data)
    with pytest.raises(ModelRefused) as refused:
        XgboostRuntime().load(ModelFiles(folder, options))
    return refused.value


@pytest.mark.parametrize("name", ["model.ubj", "model.json"])
def test_the_probabilities_are_those_of_xgboost(tmp_path: Path, name: str) -> None:
    booster = classifier()
    model = load(tmp_path, booster, name)

    assert model.metadata.inputs == (TensorSpec("input", "FP32", (-1, 4)),)
    assert model.metadata.outputs == (TensorSpec("output", "FP32", (-1, 3)),)
    output = model.infer({"input": ROWS}, ["output"])["output"]
    np.testing.assert_array_equal(output, booster.inplace_predict(ROWS))
    np.testing.assert_array_equal(output, booster.predict(xgboost.DMatrix(IRIS)))


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"booster": "gblinear"},
        {"booster": "dart", "rate_drop": 0.5},
        {"gamma": 5000.0, "tree_method": "exact", "max_depth": 8},
        {"grow_policy": "lossguide", "max_leaves": 9},
        {"num_parallel_tree": 3, "subsample": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["model.ubj", "model.json"])
def test_every_booster_gives_its_numbers(
    tmp_path: Path, parameters: dict[str, Any], name: str
) -> None:
    x, y = load_diabetes(return_X_y=True)
    booster = train(x, y, **parameters)
    output = load(tmp_path, booster, name).infer({"input": x.astype(np.float32)}, ["output"])[
        "output"
    ]
    expected = booster.predict(xgboost.DMatrix(x.astype(np.float32)))
    # XGBoost's two ways to predict add a dart's trees up in different orders.
    np.testing.assert_allclose(output, expected, rtol=1e-6 if "rate_drop" in parameters else 0)


@pytest.mark.parametrize("onehot", [1, 99])
def test_categories_are_served(tmp_path: Path, onehot: int) -> None:
    x = np.random.default_rng(0).integers(0, 9, (300, 1)).astype(np.float32)
    data = xgboost.DMatrix(x, x[:, 0] % 3, feature_types=["c"])
    booster = xgboost.train({"nthread": 1, "max_cat_to_onehot": onehot}, data, 4)
    output = load(tmp_path, booster).infer({"input": x}, ["output"])["output"]
    np.testing.assert_array_equal(output, booster.predict(data))


def test_margins_on_demand(tmp_path: Path) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    booster = train(x, y, objective="binary:logistic")
    output = load(tmp_path, booster, output_margin=True).infer(
        {"input": x.astype("f4")}, ["output"]
    )
    expected = booster.predict(xgboost.DMatrix(x.astype("f4")), output_margin=True)
    np.testing.assert_array_equal(output["output"], expected)


def test_a_model_stopped_early_answers_with_its_best_iteration(tmp_path: Path) -> None:
    x, y = load_diabetes(return_X_y=True)
    x = x.astype(np.float32)
    trained = xgboost.XGBRegressor(n_estimators=200, n_jobs=1, early_stopping_rounds=5)
    trained.fit(x[:300], y[:300], eval_set=[(x[300:], y[300:])], verbose=False)

    best = load(tmp_path, trained.get_booster()).infer({"input": x}, ["output"])["output"]
    every = load(tmp_path, trained.get_booster(), best_iteration=False).infer(
        {"input": x}, ["output"]
    )

    np.testing.assert_array_equal(best, trained.predict(x))
    every_tree = trained.get_booster().inplace_predict(x, iteration_range=(0, 0))
    np.testing.assert_array_equal(every["output"], every_tree)
    assert (best != every_tree).any()


def test_rows_of_two_requests_give_together_what_each_gives_alone(tmp_path: Path) -> None:
    model = load(tmp_path, classifier())
    together = model.infer({"input": ROWS}, ["output"])["output"]
    alone = [model.infer({"input": part}, ["output"])["output"] for part in (ROWS[:1], ROWS[1:])]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_no_row_gives_no_row(tmp_path: Path) -> None:
    model = load(tmp_path, classifier())
    assert model.infer({"input": ROWS[:0]}, ["output"])["output"].shape == (0, 3)


def test_infinity_is_bad_input(tmp_path: Path) -> None:
    model = load(tmp_path, classifier())
    rows = ROWS[:1].copy()
    rows[0, 0] = np.inf
    try:
        output = model.infer({"input": rows}, ["output"])["output"]
    except BadInput:
        return
    assert np.isfinite(output).all()


def test_a_model_is_asked_in_many_threads_at_once(tmp_path: Path) -> None:
    for booster in (classifier(), train(booster="gblinear")):
        model = load(tmp_path, booster)
        expected = model.infer({"input": ROWS}, ["output"])["output"]
        with ThreadPoolExecutor(8) as threads:
            answers = list(
                threads.map(
                    lambda _, m=model: m.infer({"input": ROWS}, ["output"])["output"], range(64)
                )
            )
        assert all(np.array_equal(answer, expected) for answer in answers)


def test_garbage_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(3000)
    for data in (
        b"",
        b"{}",
        noise,
        b"{" + noise,
        b"[" * 99999,
        b'{"a":' * 99999,
        b"{L" * 9999,
        b"null",
    ):
        for name in ("model.json", "model.ubj"):
            assert refusal(tmp_path, data, name, file=name).code == "invalid_model"


@pytest.mark.parametrize("name", ["model.json", "model.ubj"])
def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    classifier().save_model(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for end in range(0, len(whole), len(whole) // 60):
        assert refusal(tmp_path, whole[:end], name).code == "invalid_model"


def damage(change: Callable[[Any, Any], None]) -> bytes:
    """The JSON of a model after `change(forest, tree 1)`."""
    model = json.loads(classifier().save_raw("json"))
    forest = model["learner"]["gradient_booster"]["model"]
    change(forest, forest["trees"][1])
    return json.dumps(model).encode()


def put(key: str, place: int, value: Any) -> Callable[[Any, Any], None]:
    def change(_: Any, tree: Any) -> None:
        tree[key][place] = value

    return change


def by_category(_: Any, tree: Any) -> None:
    tree["split_type"][0] = 1
    tree |= {"categories_nodes": [0], "categories_segments": [500], "categories_sizes": [5]}


@pytest.mark.parametrize(
    "change",
    [
        put("left_children", 0, 10**6),
        put("left_children", 0, 0),
        put("left_children", 0, -7),
        put("right_children", 0, 1),
        put("split_indices", 0, 4),
        lambda _, tree: tree.update(id=2),
        put("parents", 0, 1),
        put("parents", 1, 2),
        put("left_children", 0, 1.5),
        put("split_type", 0, 1),
        by_category,
        lambda forest, _: put("tree_info", 1, 3)(_, forest),
        lambda forest, _: forest["trees"].pop(),
        lambda _, tree: tree.pop("left_children"),
        lambda _, tree: tree.update(left_children=[], right_children=[], split_indices=[]),
    ],
)  # fmt: skip
def test_a_tree_that_leaves_itself_is_refused_before_it_ends_the_process(
    tmp_path: Path, change: Callable[[Any, Any], None]
) -> None:
    assert refusal(tmp_path, damage(change)).code == "invalid_model"


def test_what_is_read_from_ubjson_is_what_json_says() -> None:
    booster = classifier()
    as_json = json.loads(booster.save_raw("json"))

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items()}
        if isinstance(value, list):
            return [plain(each) for each in value]
        return value.tolist() if isinstance(value, np.ndarray) else value

    as_ubjson = plain(ubjson.parse(bytes(booster.save_raw("ubj"))))
    for model in (as_json, as_ubjson):
        for tree in model["learner"]["gradient_booster"]["model"]["trees"]:
            for key in ("base_weights", "loss_changes", "split_conditions", "sum_hessian"):
                tree[key] = np.float32(tree[key]).tolist()
    assert as_ubjson == as_json


def test_old_formats_and_pickles_are_refused(tmp_path: Path) -> None:
    for name in ("model.bin", "model.deprecated", "model.model", "model.pkl"):
        assert refusal(tmp_path, b"binf", name, file=name).code == "format_unknown"


def test_an_option_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused = refusal(tmp_path, b"{}", thread=1)
    assert refused.code == "invalid_options"
    assert "output_margin" in refused.message
