"""What must be true of the TensorFlow runtime, as a program for an interpreter that has TensorFlow.

    python saved_model_checks.py FOLDER

prints a JSON object: by the name of a check, null or how it failed.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from stackserve.runtimes.base import BadInput, Metadata, ModelFiles, ModelRefused, TensorSpec
from stackserve.runtimes.tensorflow import TensorflowRuntime


class Net(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        keys, values = tf.constant([0, 1, 2]), tf.constant(["low", "middle", "high"])
        self.w = tf.Variable(tf.random.stateless_normal((4, 3), (1, 2)))
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(keys, values), tf.constant("none")
        )

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 4], tf.float32, name="x"),
            tf.TensorSpec([None], tf.string, name="note"),
        ]
    )
    def serve(self, x: Any, note: Any) -> dict[str, Any]:
        y = tf.nn.softmax(x @ self.w)
        label = self.table.lookup(tf.cast(tf.argmax(y, 1), tf.int32))
        return {"y": y, "label": tf.strings.join([note, label]), "b": tf.cast(y, tf.bfloat16)}

    @tf.function(input_signature=[tf.TensorSpec([2, 4], tf.float32, name="x")])
    def fixed(self, x: Any) -> dict[str, Any]:
        return {"y": x @ self.w}


def saved(folder: Path) -> Path:
    net = Net()
    tf.saved_model.save(net, str(folder), {"serving_default": net.serve, "fixed": net.fixed})
    return folder


def load(folder: Path, **more: Any) -> Any:
    return TensorflowRuntime().load(ModelFiles(folder, **more))


def given(count: int) -> dict[str, Any]:
    x = np.random.default_rng(count).normal(size=(count, 4)).astype(np.float32)
    x.flags.writeable = False
    note = np.empty(count, dtype=object)
    note[:] = [f"{place}:".encode() for place in range(count)]
    return {"x": x, "note": note}


def refused(folder: Path, code: str, **more: Any) -> str:
    try:
        load(folder, **more)
    except ModelRefused as refusal:
        found = refusal
    else:
        raise AssertionError("it was loaded")
    assert found.code == code, found
    return found.message


def numbers_are_those_of_the_library(folder: Path) -> None:
    model = load(saved(folder))
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    rows = given(5)
    expected = signature(x=tf.constant(rows["x"]), note=tf.constant(rows["note"]))
    answer = model.infer(rows, ["y", "label", "b"])
    np.testing.assert_array_equal(answer["y"], expected["y"].numpy())
    assert list(answer["label"]) == list(expected["label"].numpy())
    assert answer["b"].dtype == np.float32
    np.testing.assert_array_equal(answer["b"], expected["b"].numpy().astype(np.float32))


def metadata_is_that_of_the_signature(folder: Path) -> None:
    saved(folder)
    assert load(folder).metadata == Metadata(
        "tensorflow_savedmodel",
        (TensorSpec("note", "BYTES", (-1,)), TensorSpec("x", "FP32", (-1, 4))),
        (
            TensorSpec("b", "FP32", (-1, 3)),
            TensorSpec("label", "BYTES", (-1,)),
            TensorSpec("y", "FP32", (-1, 3)),
        ),
        True,
    )
    fixed = load(folder, options={"signature": "fixed"}).metadata
    assert fixed.inputs == (TensorSpec("x", "FP32", (2, 4)),)
    assert not fixed.batches


def rows_together_are_as_apart(folder: Path) -> None:
    model = load(saved(folder))
    first, second = given(3), given(4)
    both = {name: np.concatenate([first[name], second[name]]) for name in first}
    apart = [model.infer(each, ["y"])["y"] for each in (first, second)]
    np.testing.assert_allclose(model.infer(both, ["y"])["y"], np.concatenate(apart), rtol=1e-5)


def threads_get_the_answers_of_one(folder: Path) -> None:
    model = load(saved(folder))
    expected = model.infer(given(4), ["y"])["y"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: model.infer(given(4), ["y"])["y"], range(64)))
    assert all(np.array_equal(answer, expected) for answer in answers)


def several_may_be_loaded_at_once(folder: Path) -> None:
    expected = load(saved(folder)).infer(given(4), ["y"])["y"]
    with ThreadPoolExecutor(6) as pool:
        models = list(pool.map(lambda _: load(folder), range(12)))
    assert all(np.array_equal(model.infer(given(4), ["y"])["y"], expected) for model in models)


def wrong_shapes_are_the_callers_fault(folder: Path) -> None:
    rows = given(2)
    try:
        load(saved(folder)).infer(rows | {"x": np.zeros((2, 9), np.float32)}, ["y"])
    except BadInput:
        return
    raise AssertionError("it was computed")


def with_operation(folder: Path, body: Callable[[Any], Any]) -> Path:
    module = tf.Module()
    spec = tf.TensorSpec([None, 4], tf.float32, name="x")
    serve = tf.function(lambda x: {"y": body(x)}, input_signature=[spec])
    tf.saved_model.save(module, str(folder), {"serving_default": serve})
    return folder


def outside_operations_are_refused(folder: Path) -> None:
    trace = folder / "trace"
    secret = folder / "secret"
    folder.mkdir()
    secret.write_text("1.0")

    def dataset(x: Any) -> Any:
        lines = tf.data.TextLineDataset(str(secret))
        return x + lines.reduce(
            np.float32(0), lambda total, line: total + tf.strings.to_number(line)
        )

    def written(x: Any) -> Any:
        with tf.control_dependencies([tf.io.write_file(str(trace), "here")]):
            return tf.identity(x)

    def printed(x: Any) -> Any:
        with tf.control_dependencies([tf.print(x, output_stream=f"file://{trace}")]):
            return tf.identity(x)

    def restored(x: Any) -> Any:
        raw = tf.raw_ops.RestoreV2(
            prefix=str(secret), tensor_names=["w"], shape_and_slices=[""], dtypes=[tf.float32]
        )
        return x + raw[0]

    def deep(x: Any) -> Any:
        return tf.cond(tf.reduce_sum(x) > 0, lambda: written(x), lambda: x)

    def mapped(x: Any) -> Any:
        region = tf.raw_ops.ImmutableConst(
            dtype=tf.float32, shape=[1], memory_region_name=str(secret)
        )
        return x + region

    bodies = {
        "ReadFile": lambda x: x + tf.strings.to_number(tf.io.read_file(str(secret))),
        "WriteFile": written,
        "MatchingFiles": lambda x: x + tf.cast(tf.size(tf.io.matching_files("/*")), tf.float32),
        "PrintV2": printed,
        "EagerPyFunc": lambda x: tf.py_function(lambda value: value, [x], tf.float32),
        "PyFunc": lambda x: tf.numpy_function(lambda value: value, [x], tf.float32),
        "RestoreV2": restored,
        "TextLineDataset": dataset,
        "ImmutableConst": mapped,
        "deep": deep,
    }
    for name, body in bodies.items():
        message = refused(with_operation(folder / name, body), "unsafe_operation")
        assert (name if name != "deep" else "WriteFile") in message, message
    assert not trace.exists()


def a_saver_under_a_known_name_is_no_way_out(folder: Path) -> None:
    """The name of a function is as its author wishes."""
    spec = tf.TensorSpec([None, 4], tf.float32, name="x")

    @tf.function(input_signature=[spec])
    def _traced_save(x: Any) -> Any:
        prefix = str(folder / "trace")
        raw = tf.raw_ops.SaveV2(
            prefix=prefix, tensor_names=["x"], shape_and_slices=[""], tensors=[x]
        )
        with tf.control_dependencies([raw]):
            return {"y": tf.identity(x)}

    tf.saved_model.save(tf.Module(), str(folder / "m"), {"serving_default": _traced_save})
    assert "SaveV2" in refused(folder / "m", "unsafe_operation")


def a_function_that_is_named_like_an_operation_is_no_way_out(folder: Path) -> None:
    body = lambda x: x + tf.strings.to_number(tf.io.read_file("/etc/hostname"))  # noqa: E731
    program = with_operation(folder, body) / "saved_model.pb"
    saved_model = SavedModel.FromString(program.read_bytes())
    library = saved_model.meta_graphs[0].graph_def.library
    library.function.add().CopyFrom(library.function[0])
    library.function[-1].signature.name = "ReadFile"
    program.write_bytes(saved_model.SerializeToString())
    assert "ReadFile" in refused(folder, "unsafe_operation")


def operations_that_run_while_it_is_loaded_are_refused(folder: Path) -> None:
    folder.mkdir()
    vocabulary = folder / "words.txt"
    vocabulary.write_text("a\nb\n")
    module = tf.Module()
    initializer = tf.lookup.TextFileInitializer(
        str(vocabulary), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE,
        tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER,
    )  # fmt: skip
    module.table = tf.lookup.StaticHashTable(initializer, -1)
    spec = tf.TensorSpec([None], tf.string, name="x")
    serve = tf.function(lambda x: {"y": module.table.lookup(x)}, input_signature=[spec])
    tf.saved_model.save(module, str(folder / "m"), {"serving_default": serve})
    assert "InitializeTableFromTextFile" in refused(folder / "m", "unsafe_operation")


def operations_are_read_where_somebody_vouches_for_them(folder: Path) -> None:
    folder.mkdir()
    (folder / "one").write_text("1.0")
    path = str(folder / "one")
    body = lambda x: x + tf.strings.to_number(tf.io.read_file(path))  # noqa: E731
    model = load(with_operation(folder / "m", body), allow_unsafe=True)
    answer = model.infer({"x": np.zeros((1, 4), np.float32)}, ["y"])["y"]
    np.testing.assert_array_equal(answer, np.ones((1, 4), np.float32))


def what_is_loaded_is_what_was_checked(folder: Path) -> None:
    """The program changes after it is read and before TensorFlow reads it."""
    path = saved(folder) / "saved_model.pb"
    original, read = path.read_bytes(), Path.read_bytes

    def read_and_change(self: Path) -> bytes:
        content = read(self)
        if self == path:
            self.write_bytes(b"changed")
        return content

    Path.read_bytes = read_and_change  # type: ignore[method-assign]
    try:
        model = load(folder)
    finally:
        Path.read_bytes = read  # type: ignore[method-assign]
    assert path.read_bytes() == b"changed" != original
    assert model.infer(given(1), ["y"])["y"].shape == (1, 3)


def damaged_files_are_refused(folder: Path) -> None:
    program = saved(folder) / "saved_model.pb"
    whole = program.read_bytes()
    for length in range(0, len(whole), 1 + len(whole) // 20):
        program.write_bytes(whole[:length])
        try:
            load(folder)
        except ModelRefused:
            continue
        raise AssertionError(f"{length} bytes of it were loaded")
    program.write_bytes(b"garbage" * 50)
    refused(folder, "model_unreadable")
    program.write_bytes(whole)
    for part in (folder / "variables").iterdir():
        part.write_bytes(part.read_bytes()[:20])
    refused(folder, "model_unreadable")
    program.unlink()
    refused(folder, "format_unknown")


def wrong_options_are_refused(folder: Path) -> None:
    saved(folder)
    message = refused(folder, "signature_missing", options={"signature": "predict"})
    assert "serving_default" in message
    refused(folder, "invalid_options", options={"signatur": "serving_default"})


def the_estimate_covers_the_files(folder: Path) -> None:
    size = sum(path.stat().st_size for path in saved(folder).rglob("*") if path.is_file())
    assert TensorflowRuntime().estimate(ModelFiles(folder)) > size


CHECKS = (
    numbers_are_those_of_the_library,
    metadata_is_that_of_the_signature,
    rows_together_are_as_apart,
    threads_get_the_answers_of_one,
    several_may_be_loaded_at_once,
    wrong_shapes_are_the_callers_fault,
    outside_operations_are_refused,
    a_saver_under_a_known_name_is_no_way_out,
    a_function_that_is_named_like_an_operation_is_no_way_out,
    operations_that_run_while_it_is_loaded_are_refused,
    operations_are_read_where_somebody_vouches_for_them,
    what_is_loaded_is_what_was_checked,
    damaged_files_are_refused,
    wrong_options_are_refused,
    the_estimate_covers_the_files,
)


def main() -> None:
    results: dict[str, str | None] = {}
    for check in CHECKS:
        try:
            check(Path(sys.argv[1]) / check.__name__)
            results[check.__name__] = None
        except Exception:  # noqa: BLE001  # a check that fails must not hide the others
            results[check.__name__] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
