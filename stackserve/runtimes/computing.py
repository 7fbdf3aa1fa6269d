"""From a batch of requests to their answers: join the rows, compute, part them again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from stackserve.runtimes.base import BadInput, Model, Tensors
from stackserve.runtimes.batching import Job
from stackserve.runtimes.compression import deflate
from stackserve.runtimes.link import Part
from stackserve.runtimes.oip_errors import BadRequest, ModelFault
from stackserve.runtimes.oip_request import Decoder, InferenceRequest
from stackserve.runtimes.oip_response import encode
from stackserve.runtimes.protocol import Answer, Infer

logger = logging.getLogger(__name__)

MOST_SHOWN = 300
"""Characters of a framework's own words in an error."""

LEAST_COMPRESSED = 256
"""Bytes of an answer that is worth the time."""

Send = Callable[[Answer, Sequence[Part]], None]


@dataclass(frozen=True)
class Served:
    """A loaded model, and how its requests are read."""

    model: Model
    decoder: Decoder


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that waits to be computed."""

    call: Infer
    request: InferenceRequest
    served: Served
    input_ns: int


AskedJob = Job[Asked]


def compute(batch: tuple[AskedJob, ...], send: Send) -> None:
    """Answer every request of a batch. When it cannot be computed together, each is computed alone, so
    that a request which the model refuses fails alone.
    """
    began = time.monotonic()
    jobs = tuple(job for job in batch if not job.cancelled)
    if not jobs:
        return
    try:
        parts = _joined(jobs) if len(jobs) > 1 else [_alone(jobs[0])]
    except Exception as error:  # noqa: BLE001  # whatever a framework raises
        if len(jobs) > 1:
            for job in jobs:
                compute((job,), send)
            return
        _fail(jobs[0], error, send)
        return
    infer_ns = int((time.monotonic() - began) * 1e9)
    for number, (job, outputs) in enumerate(zip(jobs, parts, strict=True)):
        queue_ns = int((began - job.arrived) * 1e9)
        _answer(job, outputs, send, leads=number == 0, queue_ns=queue_ns, infer_ns=infer_ns)


def _alone(job: AskedJob) -> Tensors:
    asked = job.what
    return asked.served.model.infer(asked.request.inputs, asked.request.wanted)


def _joined(jobs: tuple[AskedJob, ...]) -> list[Tensors]:
    """Raises ModelFault when the model gives another number of rows than it got."""
    first = jobs[0].what
    inputs = {
        name: np.concatenate([job.what.request.inputs[name] for job in jobs])
        for name in first.request.inputs
    }
    outputs = first.served.model.infer(inputs, first.request.wanted)
    rows = sum(job.rows for job in jobs)
    for name, tensor in outputs.items():
        if tensor.ndim == 0 or tensor.shape[0] != rows:
            raise ModelFault(f"output {name} has the shape {tensor.shape} for {rows} rows")
    parts, start = [], 0
    for job in jobs:
        end = start + job.rows
        parts.append({name: tensor[start:end] for name, tensor in outputs.items()})
        start = end
    return parts


def _answer(
    job: AskedJob, outputs: Tensors, send: Send, *, leads: bool, queue_ns: int, infer_ns: int
) -> None:
    asked, began = job.what, time.monotonic_ns()
    call = asked.call
    try:
        parts, json_bytes = encode(
            call.name, call.version, asked.request, outputs, asked.served.model.metadata
        )
        encoding = call.accept if sum(map(len, parts)) >= LEAST_COMPRESSED else None
        if encoding is not None:
            parts = [deflate(parts, encoding)]
    except Exception as error:  # noqa: BLE001  # an output that is not what the model's metadata says
        _fail(job, error, send)
        return
    answer = Answer(
        call.id,
        200,
        json_bytes,
        encoding,
        rows=job.rows,
        leads=leads,
        queue_ns=queue_ns,
        input_ns=asked.input_ns,
        infer_ns=infer_ns,
        output_ns=time.monotonic_ns() - began,
    )
    send(answer, parts)


def _fail(job: AskedJob, error: Exception, send: Send) -> None:
    call = job.what.call
    status = 400 if isinstance(error, BadInput | BadRequest) else 500
    if status == 500:
        logger.error("%s failed on a request", call.name, exc_info=error)
    sentence = str(error) if status == 400 else f"model {call.name} failed: {_shown(error)}"
    refuse(call.id, status, sentence, send)


def refuse(identifier: int, status: int, sentence: str, send: Send) -> None:
    """Answer with an error, as the protocol words it."""
    send(Answer(identifier, status), (msgspec.json.encode({"error": sentence}),))


def _shown(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "…"
