"""PyTorch models as safetensors and an architecture: the module's numbers, and what is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stackserve.runtimes import architectures
from stackserve.runtimes.base import BadInput, ModelFiles, ModelRefused, TensorSpec
from stackserve.runtimes.torch import TorchRuntime
from tests.runtimes.payload import Payload

DESCRIPTION: dict[str, Any] = {
    "architecture": "mlp",
    "arguments": {"inputs": 4, "hidden": [8, 5], "outputs": 3, "activation": "tanh"},
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
}


def mlp() -> torch.nn.Module:
    torch.manual_seed(7)
    layers = [torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 5), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(5, 3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path, mlp().state_dict())


def written(folder: Path, state: dict[str, Any], **description: Any) -> Path:
    save_file(state, folder / "model.safetensors")
    (folder / "architecture.json").write_text(json.dumps(DESCRIPTION | description))
    return folder


def refusal(folder: Path, **more: Any) -> ModelRefused:
    with pytest.raises(ModelRefused) as caught:
        TorchRuntime().load(ModelFiles(folder, **more))
    return caught.value


def rows(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(count).normal(size=(count, 4)).astype(np.float32)


def test_the_numbers_are_those_of_the_module(folder: Path) -> None:
    model = TorchRuntime().load(ModelFiles(folder))
    x = rows(6)
    with torch.inference_mode():
        expected = mlp()(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(model.infer({"x": x}, ["y"])["y"], expected)


def test_the_metadata_is_what_the_description_says(folder: Path) -> None:
    metadata = TorchRuntime().load(ModelFiles(folder)).metadata
    assert metadata.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert metadata.outputs == (TensorSpec("y", "FP32", (-1, 3)),)
    assert metadata.batches


def test_a_description_with_fixed_rows_or_a_no_is_not_batched(tmp_path: Path) -> None:
    state = mlp().state_dict()
    fixed = [{"name": "x", "datatype": "FP32", "shape": [2, 4]}]
    for more in ({"batches": False}, {"inputs": fixed}):
        metadata = TorchRuntime().load(ModelFiles(written(tmp_path, state, **more))).metadata
        assert not metadata.batches


def test_rows_of_two_requests_together_are_as_apart(folder: Path) -> None:
    model = TorchRuntime().load(ModelFiles(folder))
    first, second = rows(3), rows(5)
    together = model.infer({"x": np.concatenate([first, second])}, ["y"])["y"]
    apart = [model.infer({"x": each}, ["y"])["y"] for each in (first, second)]
    np.testing.assert_allclose(together, np.concatenate(apart), rtol=1e-5, atol=1e-6)


def test_read_only_input_is_taken_and_left_as_it_is(folder: Path) -> None:
    model = TorchRuntime().load(ModelFiles(folder))
    x = np.frombuffer(rows(2).tobytes(), np.float32).reshape(2, 4)
    assert not x.flags.writeable
    assert model.infer({"x": x}, ["y"])["y"].shape == (2, 3)
    np.testing.assert_array_equal(x, rows(2))


def test_many_threads_get_the_answers_of_one(folder: Path) -> None:
    model = TorchRuntime().load(ModelFiles(folder))
    expected = model.infer({"x": rows(4)}, ["y"])["y"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: model.infer({"x": rows(4)}, ["y"])["y"], range(64)))
    assert all(np.array_equal(answer, expected) for answer in answers)


def test_no_number_and_infinity_among_weights_are_weights(tmp_path: Path) -> None:
    state = mlp().state_dict()
    state["4.bias"] = torch.tensor([float("nan"), float("inf"), 0.0])
    y = TorchRuntime().load(ModelFiles(written(tmp_path, state))).infer({"x": rows(1)}, ["y"])["y"]
    assert np.isnan(y[0, 0])
    assert np.isinf(y[0, 1])
    assert np.isfinite(y[0, 2])


def test_an_architecture_of_another_package_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = EntryPoint("halves", "torch.nn:Identity", architectures.GROUP)
    monkeypatch.setattr(architectures, "entry_points", lambda group: EntryPoints([entry]))
    folder = written(tmp_path, {}, architecture="halves", arguments={})
    x = rows(2)
    y = TorchRuntime().load(ModelFiles(folder)).infer({"x": x}, ["y"])["y"]
    np.testing.assert_array_equal(y, x)


def test_brain_floats_travel_as_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(architectures.BUILT_IN, "brain", _Brain)
    folder = written(tmp_path, {}, architecture="brain", arguments={})
    y = TorchRuntime().load(ModelFiles(folder)).infer({"x": rows(2)}, ["y"])["y"]
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, rows(2), rtol=1e-2)


class _Brain(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return x.bfloat16()


def test_a_shape_that_the_module_cannot_take_is_the_callers_fault(folder: Path) -> None:
    model = TorchRuntime().load(ModelFiles(folder))
    with pytest.raises(BadInput, match="cannot compute"):
        model.infer({"x": np.zeros((1, 9), np.float32)}, ["y"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: state.pop("2.weight"), "no tensor '2.weight'"),
        (lambda state: state.update(more=torch.ones(1)), "'more' too many"),
        (
            lambda state: state.update({"0.bias": torch.ones(9)}),
            r"'0.bias' of shape \[9\] instead of \[8\]",
        ),
    ],
    ids=["missing", "unexpected", "misshaped"],
)
def test_weights_of_another_architecture_are_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], told: str
) -> None:
    state = dict(mlp().state_dict())
    change(state)
    found = refusal(written(tmp_path, state))
    assert found.code == "weights_mismatch"
    with pytest.raises(ModelRefused, match=told):
        raise found


@pytest.mark.parametrize("content", [b"", b"garbage" * 40, b"\xff" * 8 + b"{}"], ids=repr)
def test_weights_that_are_damaged_are_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    assert refusal(folder).code == "model_unreadable"


def test_weights_that_are_cut_short_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    assert refusal(folder).code == "model_unreadable"


@pytest.mark.parametrize(
    ("description", "code"),
    [
        ({"architecture": "perceptron"}, "architecture_unknown"),
        ({"arguments": {"inputs": 4}}, "invalid_description"),
        (
            {"arguments": {"inputs": 4, "outputs": 3, "activation": "os.system"}},
            "invalid_description",
        ),
        ({"surprise": 1}, "invalid_description"),
        ({"inputs": [{"name": "x", "datatype": "FP31", "shape": [-1]}]}, "invalid_description"),
    ],
)
def test_a_description_that_is_wrong_is_refused(
    tmp_path: Path, description: dict[str, Any], code: str
) -> None:
    assert refusal(written(tmp_path, dict(mlp().state_dict()), **description)).code == code


def test_weights_without_a_description_are_refused(folder: Path) -> None:
    (folder / "architecture.json").unlink()
    assert refusal(folder).code == "description_missing"


@pytest.mark.parametrize("name", ["model.pt", "model.pth"])
def test_a_pickle_is_refused_and_its_payload_never_runs(tmp_path: Path, name: str) -> None:
    trace = tmp_path / "trace"
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "architecture.json").write_text(json.dumps(DESCRIPTION))
    (folder / name).write_bytes(pickle.dumps(Payload(trace)))
    assert refusal(folder).code == "unsafe_format"
    assert not trace.exists()


def test_weights_that_lie_outside_of_the_folder_are_refused(folder: Path) -> None:
    elsewhere = folder.with_name("elsewhere.safetensors")
    (folder / "model.safetensors").rename(elsewhere)
    (folder / "model.safetensors").symlink_to(elsewhere)
    assert refusal(folder).code == "file_outside"


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torchscript_is_read_where_somebody_vouches_for_it(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.jit.trace(mlp(), torch.ones(2, 4)).save(str(folder / "model.pt"))
    model = TorchRuntime().load(ModelFiles(folder, allow_unsafe=True))
    x = rows(3)
    expected = mlp()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(model.infer({"x": x}, ["y"])["y"], expected, rtol=1e-6)


def test_an_option_is_refused_because_there_are_none(folder: Path) -> None:
    assert refusal(folder, options={"device": "cuda"}).code == "invalid_options"


def test_the_estimate_covers_the_weights_and_their_copy(folder: Path) -> None:
    size = (folder / "model.safetensors").stat().st_size
    assert TorchRuntime().estimate(ModelFiles(folder)) > 2 * size
