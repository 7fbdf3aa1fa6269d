from __future__ import annotations

import io
import json
import os
import pickle
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_selection import SelectKBest
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier, TweedieRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    SplineTransformer,
    StandardScaler,
)
from sklearn.svm import SVC

from stackserve.runtimes.base import BadInput, Model, ModelFiles, ModelRefused, TensorSpec
from stackserve.runtimes.sklearn import SklearnRuntime
from tests.runtimes.payload import Payload

IRIS, SPECIES = load_iris(return_X_y=True)
NAMES = np.array(load_iris().target_names)


def load(folder: Path, estimator: Any, **options: Any) -> Model:
    skops.io.dump(estimator, folder / "model.skops")
    return SklearnRuntime().load(ModelFiles(folder, options))


def refusal(folder: Path, *, allow_unsafe: bool = False, **options: Any) -> ModelRefused:
    with pytest.raises(ModelRefused) as refused:
        SklearnRuntime().load(ModelFiles(folder, options, allow_unsafe=allow_unsafe))
    return refused.value


MIXED = ColumnTransformer(
    [
        ("numbers", StandardScaler(), [0, 1]),
        ("kinds", OneHotEncoder(handle_unknown="ignore"), [2, 3]),
    ]
)
CLASSIFIERS = [
    AdaBoostClassifier(n_estimators=5),
    CalibratedClassifierCV(GaussianNB(), cv=3),
    ExtraTreesClassifier(5),
    GaussianProcessClassifier(),
    GradientBoostingClassifier(n_estimators=5),
    HistGradientBoostingClassifier(max_iter=5),
    KNeighborsClassifier(),
    LogisticRegression(max_iter=500),
    MLPClassifier((5,), max_iter=20),
    RandomForestClassifier(5, n_jobs=-1),
    SGDClassifier(loss="log_loss"),
    SVC(),
    StackingClassifier([("a", GaussianNB()), ("b", RandomForestClassifier(3))], cv=3),
    VotingClassifier([("a", GaussianNB()), ("b", LogisticRegression(max_iter=500))]),
    make_pipeline(StandardScaler(), PCA(2), SVC(kernel="poly")),
    make_pipeline(SimpleImputer(), SelectKBest(k=2), SplineTransformer(), LogisticRegression()),
    make_pipeline(MIXED, RandomForestClassifier(5)),
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=lambda each: type(each).__name__)
def test_ordinary_classifiers_give_their_own_numbers(tmp_path: Path, estimator: Any) -> None:
    estimator.fit(IRIS, NAMES[SPECIES])
    methods = [
        each
        for each in ("predict", "predict_proba", "decision_function")
        if hasattr(estimator, each)
    ]
    model = load(tmp_path, estimator, method=methods)

    assert model.metadata.inputs == (TensorSpec("input", "FP64", (-1, 4)),)
    assert [spec.name for spec in model.metadata.outputs] == methods
    assert model.metadata.outputs[0] == TensorSpec("predict", "BYTES", (-1,))
    outputs = model.infer({"input": IRIS}, methods)
    assert [label.decode() for label in outputs["predict"]] == estimator.predict(IRIS).tolist()
    for method in methods[1:]:
        np.testing.assert_array_equal(outputs[method], getattr(estimator, method)(IRIS))


@pytest.mark.parametrize(
    "estimator",
    [
        HistGradientBoostingRegressor(max_iter=5),
        RandomForestRegressor(5),
        Ridge(),
        TweedieRegressor(power=0),
    ],
    ids=lambda each: type(each).__name__,
)
def test_regressors_give_their_own_numbers(tmp_path: Path, estimator: Any) -> None:
    x, y = load_diabetes(return_X_y=True)
    model = load(tmp_path, estimator.fit(x, y))
    assert model.metadata.outputs == (TensorSpec("predict", "FP64", (-1,)),)
    output = model.infer({"input": x}, ["predict"])["predict"]
    np.testing.assert_array_equal(output, estimator.predict(x))


def test_a_transformer_is_asked_by_its_method_and_its_sparse_answer_is_filled(
    tmp_path: Path,
) -> None:
    kinds = IRIS[:, 2:].round()
    encoder = OneHotEncoder().fit(kinds)
    model = load(tmp_path, encoder, method="transform", sample=kinds[0].tolist())
    output = model.infer({"input": kinds}, ["transform"])["transform"]
    np.testing.assert_array_equal(output, encoder.transform(kinds).toarray())


def test_an_integer_datatype_of_the_library_is_told_as_it_is(tmp_path: Path) -> None:
    means = KMeans(3, n_init=1).fit(IRIS)
    model = load(tmp_path, means, method=["predict", "transform"])
    assert [spec.datatype for spec in model.metadata.outputs] == ["INT32", "FP64"]


def test_an_option_has_floats_for_input(tmp_path: Path) -> None:
    scaler = make_pipeline(StandardScaler(), LogisticRegression()).fit(IRIS, SPECIES)
    model = load(tmp_path, scaler, datatype="FP32", method="predict_proba")
    rows = IRIS.astype(np.float32)
    assert model.metadata.inputs == (TensorSpec("input", "FP32", (-1, 4)),)
    output = model.infer({"input": rows}, ["predict_proba"])["predict_proba"]
    np.testing.assert_array_equal(output, scaler.predict_proba(rows))


def test_rows_of_two_requests_give_together_what_each_gives_alone(tmp_path: Path) -> None:
    model = load(tmp_path, RandomForestClassifier(9).fit(IRIS, SPECIES), method="predict_proba")
    parts = [model.infer({"input": part}, ["predict_proba"]) for part in (IRIS[:1], IRIS[1:])]
    together = model.infer({"input": IRIS}, ["predict_proba"])["predict_proba"]
    np.testing.assert_array_equal(
        together, np.concatenate([part["predict_proba"] for part in parts])
    )


@pytest.mark.parametrize(
    "estimator",
    [
        HistGradientBoostingClassifier(max_iter=3),
        KNeighborsClassifier(),
        SVC(),
        RandomForestClassifier(5),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_model_is_asked_in_many_threads_at_once_with_read_only_rows(
    tmp_path: Path, estimator: Any
) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    model = load(tmp_path, estimator.fit(x, y))
    expected = estimator.predict(x)
    x.flags.writeable = False
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(lambda _: model.infer({"input": x}, ["predict"])["predict"], range(32))
        )
    assert all(np.array_equal(answer, expected) for answer in answers)


def test_what_the_estimator_refuses_is_bad_input(tmp_path: Path) -> None:
    model = load(tmp_path, LogisticRegression(max_iter=500).fit(IRIS, SPECIES))
    for rows in (np.full((1, 4), np.nan), np.zeros((0, 4))):
        with pytest.raises(BadInput, match="refuses the input"):
            model.infer({"input": rows}, ["predict"])


def test_saved_numbers_of_jobs_are_set_to_the_threads_of_a_request(tmp_path: Path) -> None:
    forest = make_pipeline(StandardScaler(), RandomForestClassifier(3, n_jobs=64)).fit(
        IRIS, SPECIES
    )
    model = load(tmp_path, forest)
    estimator = model._estimator  # type: ignore[attr-defined]
    assert estimator.get_params()["randomforestclassifier__n_jobs"] == 1


def test_a_model_that_does_not_accept_zeros_is_asked_with_a_sample(tmp_path: Path) -> None:
    kinds = IRIS[:, 2:].round() + 1
    skops.io.dump(OneHotEncoder(sparse_output=False).fit(kinds), tmp_path / "model.skops")
    refused = refusal(tmp_path, method="transform")
    assert refused.code == "probe_failed"
    assert "sample" in refused.message


def test_a_method_that_the_model_has_not_is_refused(tmp_path: Path) -> None:
    skops.io.dump(StandardScaler().fit(IRIS), tmp_path / "model.skops")
    for options in ({}, {"method": "predict_proba"}, {"method": []}, {"method": "fit"}):
        assert refusal(tmp_path, **options).code == "invalid_options"


def test_a_model_that_gives_several_tables_is_refused(tmp_path: Path) -> None:
    forest = RandomForestClassifier(2).fit(IRIS, np.eye(3, dtype=int)[SPECIES])
    skops.io.dump(forest, tmp_path / "model.skops")
    assert refusal(tmp_path, method="predict_proba").code == "unsupported_output"


@pytest.mark.parametrize("name", ["model.pkl", "model.pickle", "model.joblib", "model.sav"])
def test_a_pickle_is_refused_and_never_read(tmp_path: Path, name: str) -> None:
    ran = tmp_path / "ran"
    (tmp_path / name).write_bytes(pickle.dumps(Payload(ran)))
    for options in ({}, {"file": name}):
        refused = refusal(tmp_path, **options)
        assert refused.code == "unsafe_format"
        assert name in refused.message
        with pytest.raises(ModelRefused):
            SklearnRuntime().estimate(ModelFiles(tmp_path, options))
    assert not ran.exists()


def test_a_pickle_is_read_where_unsafe_formats_are_allowed(tmp_path: Path) -> None:
    forest = RandomForestClassifier(3).fit(IRIS, SPECIES)
    joblib.dump(forest, tmp_path / "forest.joblib")
    model = SklearnRuntime().load(ModelFiles(tmp_path, allow_unsafe=True))
    output = model.infer({"input": IRIS}, ["predict"])["predict"]
    np.testing.assert_array_equal(output, forest.predict(IRIS))


def node(loader: str, module: str, name: str, **more: Any) -> dict[str, Any]:
    return {"__loader__": loader, "__module__": module, "__class__": name, **more}


def plain(value: Any) -> dict[str, Any]:
    return node("JsonNode", "builtins", "str", content=json.dumps(value), is_json=True)


def arguments(*values: Any) -> dict[str, Any]:
    return node("TupleNode", "builtins", "tuple", content=[plain(value) for value in values])


def payloads(path: str) -> dict[str, dict[str, Any]]:
    """Nodes that make a folder when they are constructed."""
    no_keys = node(
        "DictNode",
        "builtins",
        "dict",
        content={},
        key_types=node("ListNode", "builtins", "list", content=[]),
    )
    make = node("FunctionNode", "os", "mkdir")
    partial = {"func": make, "args": arguments(path), "kwds": no_keys, "namespace": no_keys}
    call = {"attrs": arguments("mkdir", path)}
    return {
        "posix.mkdir": node("ConstructorFromReduceNode", "posix", "mkdir", content=arguments(path)),
        "functools.partial": node("PartialNode", "functools", "partial", content=partial),
        "os.mkdir": make,
        "operator.methodcaller": node("OperatorFuncNode", "operator", "methodcaller", **call),
        "subprocess.Popen": node("ObjectNode", "subprocess", "Popen", content=arguments(path)),
        "builtins.exec": node("TypeNode", "builtins", "exec"),
        "pathlib.Path": node("LossNode", "pathlib", "Path", content=no_keys, __reduce__={"args": arguments(path)}),
    }  # fmt: skip


@pytest.mark.parametrize("stranger", payloads("x"))
def test_a_payload_in_a_skops_file_is_refused_by_name_and_never_made(
    tmp_path: Path, stranger: str
) -> None:
    ran = tmp_path / "ran"
    held = tmp_path / "held"
    held.mkdir()
    schema = payloads(str(ran))[stranger] | {"protocol": skops.io._protocol.PROTOCOL}
    with zipfile.ZipFile(held / "model.skops", "w") as archive:
        archive.writestr("schema.json", json.dumps(schema))

    refused = refusal(held)

    assert refused.code == "untrusted_type"
    assert stranger in refused.message
    assert refusal(held, trusted=[stranger]).code == "untrusted_type"
    assert not ran.exists()


def test_a_function_in_an_estimator_is_refused(tmp_path: Path) -> None:
    estimator = Pipeline(
        [("run", FunctionTransformer(os.system)), ("tree", RandomForestClassifier(2))]
    )
    estimator[1].fit(IRIS, SPECIES)
    skops.io.dump(estimator, tmp_path / "model.skops")
    refused = refusal(tmp_path)
    assert refused.code == "untrusted_type"
    assert "posix.system" in refused.message


def test_a_type_that_the_operator_trusts_counts_only_where_unsafe_formats_are_allowed(
    tmp_path: Path,
) -> None:
    estimator = make_pipeline(FunctionTransformer(np.nan_to_num), StandardScaler()).fit(IRIS)
    skops.io.dump(estimator, tmp_path / "model.skops")
    options = {"trusted": ["numpy.nan_to_num"], "method": "transform"}
    assert refusal(tmp_path, allow_unsafe=True, method="transform").code == "untrusted_type"
    assert refusal(tmp_path, **options).code == "untrusted_type"
    model = SklearnRuntime().load(ModelFiles(tmp_path, options, allow_unsafe=True))
    assert model.metadata.inputs[0].shape == (-1, 4)


def test_a_file_that_is_cut_off_or_garbage_is_refused(tmp_path: Path) -> None:
    whole = io.BytesIO(
        skops.io.dumps(LogisticRegression(max_iter=500).fit(IRIS, SPECIES))
    ).getvalue()
    deep = io.BytesIO()
    with zipfile.ZipFile(deep, "w") as archive:
        archive.writestr("schema.json", "[" * 200_000)
    for data in (
        b"",
        b"PK",
        bytes(500),
        deep.getvalue(),
        *(whole[:end] for end in range(0, len(whole), 400)),
    ):
        (tmp_path / "model.skops").write_bytes(data)
        assert refusal(tmp_path).code == "invalid_model"


def test_bytes_changed_in_a_file_end_no_load_otherwise_than_by_a_refusal(tmp_path: Path) -> None:
    whole = skops.io.dumps(LogisticRegression(max_iter=500).fit(IRIS, SPECIES))
    numbers = np.random.default_rng(0)
    codes = set()
    for _ in range(200):
        data = bytearray(whole)
        for place in numbers.integers(len(data), size=3):
            data[place] = numbers.integers(256)
        (tmp_path / "model.skops").write_bytes(data)
        try:
            SklearnRuntime().load(ModelFiles(tmp_path))
        except ModelRefused as refused:
            codes.add(refused.code)
    assert "invalid_model" in codes


def test_warnings_of_the_framework_do_not_fail_a_request(tmp_path: Path) -> None:
    """A model that was fitted with names is asked without them."""
    estimator = StandardScaler().fit(IRIS)
    estimator.feature_names_in_ = np.array(list("abcd"), dtype=object)
    skops.io.dump(estimator, tmp_path / "model.skops")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        model = SklearnRuntime().load(ModelFiles(tmp_path, {"method": "transform"}))
        output = model.infer({"input": IRIS}, ["transform"])["transform"]
    np.testing.assert_allclose(output.mean(axis=0), 0, atol=1e-9)
