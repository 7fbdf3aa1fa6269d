"""The parts of a worker around its runtime: the recorder, the lanes, the link, the registry."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from queue import SimpleQueue

import msgspec
import numpy as np
import pytest

from stackserve.runtimes.base import Metadata, Model, Tensors, TensorSpec
from stackserve.runtimes.batching import Job
from stackserve.runtimes.computing import Asked, Served, compute
from stackserve.runtimes.lanes import Lanes
from stackserve.runtimes.link import Link
from stackserve.runtimes.oip_request import Decoder
from stackserve.runtimes.protocol import Answer, Batching, Infer, Unload, frame
from stackserve.runtimes.recorder import Recorder, make_recorder
from stackserve.runtimes.registry import UnknownRuntime, framework_of, open_runtime, runtime_names

PATIENCE = 10


def recorders(slots: int) -> tuple[Recorder, Recorder]:
    """Two ends, as the worker and the gateway have them."""
    fd = make_recorder(slots)
    other = os.dup(fd)
    return Recorder(fd), Recorder(other)


def test_the_other_end_reads_what_is_worked_on() -> None:
    worker, gateway = recorders(3)
    assert gateway.works() == []
    with worker.working(1, 0):
        (work,) = gateway.works()
        assert (work.slot, work.model) == (1, 0)
        assert 0 <= work.seconds < PATIENCE
    assert gateway.works() == []


def test_lanes_compute_at_once_and_say_on_what() -> None:
    worker, gateway = recorders(2)
    together, done = threading.Barrier(2), SimpleQueue[str]()

    def meet(batch: tuple[Job[str], ...]) -> None:
        together.wait(PATIENCE)
        models = {work.model for work in gateway.works()}
        together.wait(PATIENCE)
        done.put(f"{batch[0].what} {models}")

    lanes: Lanes[str] = Lanes(2, worker, meet)
    for model in (5, 6):
        lanes.open(model, Batching())
        lanes.put(Job("x", model, 1, None, 0.0))
    assert {done.get(timeout=PATIENCE) for _ in range(2)} == {"x {5, 6}"}


def test_a_frame_is_read_as_it_was_written_however_it_arrives() -> None:
    ours, theirs = socket.socketpair()
    link = Link(theirs.detach())
    body = os.urandom(300_000)
    sent = frame(Infer(7, 3, "m", "1"), len(body)) + body + frame(Unload(8, 3))

    def write() -> None:
        for start in range(0, len(sent), 70_001):
            ours.sendall(sent[start : start + 70_001])
        ours.close()

    threading.Thread(target=write).start()
    read = list(link.frames())
    link.close()
    assert read == [(Infer(7, 3, "m", "1"), body), (Unload(8, 3), b"")]


class Doubling(Model):
    """Fails on 13, and counts how often it is asked."""

    metadata = Metadata(
        "test", (TensorSpec("x", "FP32", (-1, 1)),), (TensorSpec("y", "FP32", (-1, 1)),)
    )

    def __init__(self) -> None:
        self.asked = 0

    def infer(self, inputs: Tensors, wanted: object) -> Tensors:
        self.asked += 1
        if (inputs["x"] == 13).any():
            raise RuntimeError("13")
        return {"y": inputs["x"] * np.float32(2)}


def jobs(model: Model, *values: float) -> tuple[Job[Asked], ...]:
    served = Served(model, Decoder(model.metadata))
    made = []
    for number, value in enumerate(values):
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}
        request = served.decoder.decode(msgspec.json.encode({"inputs": [tensor]}))
        asked = Asked(Infer(number, 1, "m", "1"), request, served, 0)
        made.append(Job(asked, 1, request.rows, request.signature, 0.0))
    return tuple(made)


def answered(batch: tuple[Job[Asked], ...]) -> dict[int, tuple[Answer, bytes]]:
    answers: dict[int, tuple[Answer, bytes]] = {}
    compute(batch, lambda answer, body: answers.update({answer.id: (answer, b"".join(body))}))
    return answers


def test_a_batch_is_computed_once_and_parted_by_rows() -> None:
    model = Doubling()
    answers = answered(jobs(model, 1, 2, 3))
    assert model.asked == 1
    assert [b"[%.1f]" % (2 * n) in answers[n - 1][1] for n in (1, 2, 3)] == [True] * 3
    assert [answers[n][0].leads for n in range(3)] == [True, False, False]


def test_a_request_that_the_model_fails_on_fails_alone() -> None:
    answers = answered(jobs(Doubling(), 1, 13, 3))
    assert [answers[n][0].status for n in range(3)] == [200, 500, 200]
    assert answers[1][1] == b'{"error":"model m failed: RuntimeError: 13"}'


def test_a_request_that_nobody_waits_for_is_not_computed() -> None:
    model = Doubling()
    (job,) = jobs(model, 1)
    job.cancelled = True
    assert answered((job,)) == {}
    assert model.asked == 0


def test_runtimes_are_found_by_name_and_an_unknown_one_is_told_with_those_there_are() -> None:
    assert {"onnx", "sklearn", "xgboost", "lightgbm", "torch"} <= set(runtime_names())
    assert framework_of("onnx").startswith("onnxruntime 1.")
    with pytest.raises(UnknownRuntime, match="there is no runtime 'caffe' in this environment"):
        open_runtime("caffe")


def test_a_runtime_of_another_package_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "from stackserve.runtimes.fake import FakeRuntime\nclass Mine(FakeRuntime): pass\n"
    )
    about = tmp_path / "mine_runtime-1.5.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine-runtime\nVersion: 1.5\n")
    (about / "entry_points.txt").write_text("[stackserve.runtimes]\nmine = mine:Mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert type(open_runtime("mine")).__name__ == "Mine"
    assert framework_of("mine") == "mine-runtime 1.5"
