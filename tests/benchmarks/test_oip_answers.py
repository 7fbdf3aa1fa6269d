"""Every answer is judged by its numbers, in whichever way the protocol writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from benchmarks.http_load import NOT_KEPT, Kind
from benchmarks.oip_answers import Verdict, is_right, judge
from benchmarks.oip_models import Request

EXPECTED = np.array([[1, 2, 3]], np.float32)
REQUESTS = [Request(b"", EXPECTED), Request(b"", EXPECTED * 2)]


def answer(raw: bytes = b"", **changes: object) -> bytes:
    output = {"name": "output", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]} | changes
    shown = {name: value for name, value in output.items() if value is not None}
    head = json.dumps({"model_name": "m", "outputs": [shown]}).encode()
    length = f"Inference-Header-Content-Length: {len(head)}\r\n" if raw else ""
    return f"HTTP/1.1 200 OK\r\n{length}Date: now\r\n\r\n".encode() + head + raw


def binary(values: Any, size: int = 12) -> bytes:
    return answer(
        np.asarray(values, "<f4").tobytes(), data=None, parameters={"binary_data_size": size}
    )


@pytest.mark.parametrize(
    "given", [answer(), answer(data=[[1, 2, 3]]), answer(data=[1, 2.00001, 3]), binary([1, 2, 3])]
)
def test_the_right_numbers_are_right_in_any_writing(given: bytes) -> None:
    assert is_right(given, EXPECTED)


@pytest.mark.parametrize(
    "given",
    [
        answer(data=[1, 2, 4]),
        answer(data=[1, 2]),
        answer(shape=[3]),
        answer(datatype="FP64"),
        answer(name="other"),
        binary([1, 2, 4]),
        binary([1, 2, 3, 4]),
        b"HTTP/1.1 200 OK\r\n\r\nnot JSON",
        b"HTTP/1.1 200 OK\r\n\r\n[]",
        b"",
    ],
)
def test_anything_else_is_wrong(given: bytes) -> None:
    assert not is_right(given, EXPECTED)


def test_answers_count_as_often_as_they_came_and_by_what_was_asked() -> None:
    kinds = [
        Kind(0, 200, 5, answer()),
        Kind(1, 200, 2, answer()),
        Kind(1, 503, 3, b"HTTP/1.1 503\r\n\r\nbusy"),
        Kind(0, 0, 1, b""),
        Kind(0, NOT_KEPT, 4, b""),
    ]
    verdict = judge(kinds, REQUESTS)
    failed: Mapping[str, int] = {"status 503": 3, "without an answer": 1}
    assert (verdict.right, verdict.wrong, verdict.unknown, verdict.failed) == (5, 2, 4, failed)
    assert not verdict.all_right
    assert verdict.in_words == "2 wrong, 4 not known, 3 status 503, 1 without an answer"
    assert '"outputs"' in verdict.example


def test_verdicts_add_up() -> None:
    total = Verdict()
    total.add(judge([Kind(0, 200, 5, answer())], REQUESTS))
    assert total.in_words == "none"
    for _ in range(2):
        total.add(Verdict(wrong=1, failed={"status 500": 2}, example="first"))
    assert (total.right, total.wrong, total.failed) == (5, 2, {"status 500": 4})
    assert total.example == "first"
