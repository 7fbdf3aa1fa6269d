"""Exported programs: they give the module's numbers, and say what they take and give."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stackserve.runtimes.base import ModelFiles, TensorSpec
from stackserve.runtimes.torch import TorchRuntime
from tests.runtimes.pt2_files import ROWS, Net, exported, inputs_of, net_file, refusal, saved

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


class Total(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return (x / x.sum()).bfloat16()


class Counter(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Any) -> Any:
        self.count.add_(1)
        return x + self.count


@pytest.fixture(scope="module")
def good() -> bytes:
    return net_file()


def test_the_numbers_are_those_of_the_module(tmp_path: Path, good: bytes) -> None:
    model = TorchRuntime().load(ModelFiles(saved(tmp_path, good)))
    given = inputs_of(5)
    with torch.inference_mode():
        expected = Net().eval()(torch.from_numpy(given["x"]), torch.from_numpy(given["shift"]))
    answer = model.infer(given, ["y", "low"])
    for name in ("y", "low"):
        np.testing.assert_allclose(answer[name], expected[name].numpy(), rtol=1e-6)


def test_the_metadata_is_that_of_the_signature(tmp_path: Path, good: bytes) -> None:
    metadata = TorchRuntime().load(ModelFiles(saved(tmp_path, good))).metadata
    assert metadata.inputs == (
        TensorSpec("x", "FP32", (-1, 4)),
        TensorSpec("shift", "FP32", (-1, 1)),
    )
    assert metadata.outputs == (
        TensorSpec("y", "FP32", (-1, 3)),
        TensorSpec("low", "FP32", (-1, 3)),
    )
    assert metadata.batches


def test_rows_of_two_requests_together_are_as_apart(tmp_path: Path, good: bytes) -> None:
    model = TorchRuntime().load(ModelFiles(saved(tmp_path, good)))
    first, second = inputs_of(3), inputs_of(1)
    both = {name: np.concatenate([first[name], second[name]]) for name in first}
    apart = [model.infer(each, ["y"])["y"] for each in (first, second)]
    np.testing.assert_allclose(model.infer(both, ["y"])["y"], np.concatenate(apart), rtol=1e-5)


def test_several_may_be_loaded_and_asked_at_once(tmp_path: Path, good: bytes) -> None:
    files = ModelFiles(saved(tmp_path, good))
    expected = TorchRuntime().load(files).infer(inputs_of(4), ["y"])["y"]
    with ThreadPoolExecutor(6) as pool:
        work = lambda _: TorchRuntime().load(files).infer(inputs_of(4), ["y"])["y"]  # noqa: E731
        answers = list(pool.map(work, range(12)))
    assert all(np.array_equal(answer, expected) for answer in answers)


def test_fixed_rows_are_not_batched_and_brain_floats_are_told_as_fp32(tmp_path: Path) -> None:
    content = exported(Total(), (torch.ones(2, 4),), ({},))
    model = TorchRuntime().load(ModelFiles(saved(tmp_path, content)))
    assert not model.metadata.batches
    assert model.metadata.outputs == (TensorSpec("output", "FP32", (2, 4)),)
    answer = model.infer({"x": np.ones((2, 4), np.float32)}, ["output"])["output"]
    np.testing.assert_array_equal(answer, np.full((2, 4), 0.125, np.float32))


def test_a_model_that_changes_its_own_buffers_is_refused(tmp_path: Path) -> None:
    content = exported(Counter(), (torch.ones(2, 4),), ({0: ROWS},))
    assert refusal(saved(tmp_path, content)).code == "stateful_model"


class Normal(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(4)

    def forward(self, x: Any) -> Any:
        return self.norm(x)

    def eval(self) -> Normal:
        return self.train()


def test_a_model_in_training_is_refused(tmp_path: Path) -> None:
    content = exported(Normal(), (torch.ones(2, 4),), ({0: ROWS},))
    assert refusal(saved(tmp_path, content)).code == "stateful_model"


def test_the_first_layers_of_a_real_network_are_read(tmp_path: Path) -> None:
    torch.manual_seed(5)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    size = {0: ROWS, 1: torch.export.Dim("length")}
    content = exported(layer, (torch.ones(2, 5, 8),), (size,))
    model = TorchRuntime().load(ModelFiles(saved(tmp_path, content)))
    x = np.random.default_rng(1).normal(size=(3, 7, 8)).astype(np.float32)
    with torch.inference_mode():
        expected = layer(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(
        model.infer({"src": x}, ["output"])["output"], expected, rtol=1e-4, atol=1e-5
    )
