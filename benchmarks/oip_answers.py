"""Every answer is judged: its status, its shape in the protocol, and its numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from benchmarks.http_load import NOT_KEPT, Kind
from benchmarks.oip_models import OUTPUT, Floats, Request

TOLERANCE = 1e-4
"""Relative and absolute: rows computed together may differ in their last bits."""
OK = 200
HEADER_LENGTH = re.compile(rb"\r\ninference-header-content-length:\s*(\d+)", re.IGNORECASE)


@dataclass
class Verdict:
    """Numbers of answers. `wrong` had status 200 and other numbers, or none; `failed` another status,
    by what it was; `unknown` came after too many different ones to one request.
    """

    right: int = 0
    wrong: int = 0
    unknown: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    example: str = ""
    """The beginning of one that was not right."""

    @property
    def all_right(self) -> bool:
        return not (self.wrong or self.unknown or self.failed)

    @property
    def in_words(self) -> str:
        if self.all_right:
            return "none"
        counts = {"wrong": self.wrong, "not known": self.unknown, **self.failed}
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)

    def add(self, other: Verdict) -> None:
        self.right += other.right
        self.wrong += other.wrong
        self.unknown += other.unknown
        for what, count in other.failed.items():
            self.failed[what] = self.failed.get(what, 0) + count
        self.example = self.example or other.example


def judge(kinds: Iterable[Kind], requests: Sequence[Request]) -> Verdict:
    verdict = Verdict()
    for kind in kinds:
        right = False
        if kind.status == OK:
            right = is_right(kind.answer, requests[kind.request].answer)
            verdict.right += kind.count * right
            verdict.wrong += kind.count * (not right)
        elif kind.status == NOT_KEPT:
            verdict.unknown += kind.count
        else:
            what = f"status {kind.status}" if kind.status else "without an answer"
            verdict.failed[what] = verdict.failed.get(what, 0) + kind.count
        if not right:
            verdict.example = verdict.example or kind.answer[-400:].decode(errors="replace")
    return verdict


def is_right(answer: bytes, expected: Floats) -> bool:
    try:
        given = output_of(answer)
    except (ValueError, KeyError, TypeError, StopIteration):
        return False
    if given.shape != expected.shape:
        return False
    return bool(np.allclose(given, expected, TOLERANCE, TOLERANCE))


def output_of(answer: bytes) -> npt.NDArray[np.float64]:
    """The numbers of a whole HTTP answer, in JSON or in binary. Raises ValueError and its like."""
    head, _, body = answer.partition(b"\r\n\r\n")
    length = HEADER_LENGTH.search(head)
    end = int(length[1]) if length else len(body)
    outputs = json.loads(body[:end])["outputs"]
    output = next(each for each in outputs if each["name"] == OUTPUT)
    if output["datatype"] != "FP32":
        raise ValueError(output["datatype"])
    if "data" in output:
        flat = np.asarray(output["data"], np.float64).ravel()
    else:
        size = output["parameters"]["binary_data_size"]
        if end + size != len(body):
            raise ValueError(size)
        flat = np.frombuffer(body, "<f4", offset=end).astype(np.float64)
    return flat.reshape(output["shape"])
