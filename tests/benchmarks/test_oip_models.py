"""The models give the numbers that their requests expect, and every request asks for what it should."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.oip_models import (
    INPUT,
    MODEL_FILE,
    ZOO_INPUTS,
    Encoding,
    Request,
    small_requests,
    write_small_model,
    write_zoo,
    zipf_order,
    zoo_requests,
)

onnxruntime = pytest.importorskip("onnxruntime")


def parts(request: Request) -> tuple[str, dict[str, str], bytes]:
    """Path, header fields and body of a whole request."""
    head, _, body = request.sent.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    fields = dict(line.split(": ") for line in lines)
    assert int(fields["Content-Length"]) == len(body)
    return first.split()[1], fields, body


def asked(request: Request) -> np.ndarray:
    """The numbers that a request carries, JSON or binary."""
    _, fields, body = parts(request)
    length = int(fields.get("Inference-Header-Content-Length", len(body)))
    tensor = json.loads(body[:length])["inputs"][0]
    if "data" in tensor:
        values = np.array(tensor["data"], np.float32)
    else:
        assert tensor["parameters"]["binary_data_size"] == len(body) - length
        values = np.frombuffer(body[length:], "<f4")
    return values.reshape(tensor["shape"])


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("rows", [1, 8])
def test_the_small_model_gives_what_its_requests_expect(
    tmp_path: Path, rows: int, encoding: Encoding
) -> None:
    write_small_model(tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / MODEL_FILE)
    for request in small_requests("small", rows, encoding):
        assert parts(request)[0] == "/v2/models/small/infer"
        values = asked(request)
        assert values.shape == (rows, 4)
        (given,) = session.run(None, {INPUT: values})
        np.testing.assert_allclose(given, request.answer, 1e-5, 1e-5)


def test_each_model_of_the_zoo_multiplies_by_its_own_number(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path, 3, size=4096)
    requests = zoo_requests(zoo)
    assert len(requests) == 3 * ZOO_INPUTS
    for number, request in enumerate(requests):
        model = zoo[number // ZOO_INPUTS]
        assert parts(request)[0] == f"/v2/models/{model.name}/infer"
        session = onnxruntime.InferenceSession(model.folder / MODEL_FILE)
        (given,) = session.run(None, {INPUT: asked(request)})
        np.testing.assert_allclose(given, request.answer, 1e-6)
        np.testing.assert_allclose(given, asked(request) * model.factor, 1e-6)


def test_a_model_of_the_zoo_is_as_large_as_was_asked_and_none_is_folded_away(
    tmp_path: Path,
) -> None:
    (model,) = write_zoo(tmp_path, 1, size=1 << 20)
    assert (1 << 20) <= (model.folder / MODEL_FILE).stat().st_size < (1 << 20) + 1000


def test_few_models_are_popular_and_the_draw_repeats() -> None:
    order = zipf_order(200, 50_000, seed=1)
    assert order.max() < 200 * ZOO_INPUTS
    models = np.bincount(order // ZOO_INPUTS, minlength=200)
    ranked = np.sort(models)[::-1]
    assert 1.6 < ranked[0] / ranked[1] < 2.4
    assert ranked[:20].sum() > 0.5 * len(order)
    assert ranked[-1] > 0
    assert np.array_equal(order, zipf_order(200, 50_000, seed=1))
