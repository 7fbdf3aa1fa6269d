"""The process in which the models of one framework live: `python -m stackserve.runtimes.worker`.

One thread reads what the gateway asks, a few load models, and the lanes compute.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from stackserve.lifeline import end_with_gateway, read_spec
from stackserve.processes import resident_bytes
from stackserve.runtimes.base import ModelFiles, ModelRefused, Runtime
from stackserve.runtimes.batching import Job
from stackserve.runtimes.compression import inflate
from stackserve.runtimes.computing import Asked, Served, compute, refuse
from stackserve.runtimes.lanes import Lanes
from stackserve.runtimes.link import Link, Part
from stackserve.runtimes.oip_errors import BadRequest, TooLarge
from stackserve.runtimes.oip_request import Decoder
from stackserve.runtimes.protocol import (
    Answer,
    Cancel,
    Estimate,
    Estimated,
    Failed,
    Infer,
    Load,
    Loaded,
    RuntimeSpec,
    Started,
    Unload,
    Unloaded,
)
from stackserve.runtimes.recorder import Recorder
from stackserve.runtimes.registry import UnknownRuntime, framework_of, open_runtime

logger = logging.getLogger(__name__)

CANNOT_START = 2
"""Exit code: the next one could not start either."""

SWITCH_SECONDS = 0.001
"""How long a thread may keep the interpreter while others want it; reading must not wait for long."""


class Worker:
    """Owns the loaded models."""

    def __init__(self, spec: RuntimeSpec, runtime: Runtime, link: Link) -> None:
        self._spec = spec
        self._runtime = runtime
        self._link = link
        self._recorder = Recorder(spec.recorder_fd)
        self._lanes: Lanes[Asked] = Lanes(
            spec.lanes, self._recorder, lambda batch: compute(batch, self._answer)
        )
        self._models: dict[int, Served] = {}
        self._loaders = ThreadPoolExecutor(spec.loaders, "loader")
        self._slots: SimpleQueue[int] = SimpleQueue()
        for slot in range(spec.lanes, spec.lanes + spec.loaders):
            self._slots.put(slot)
        self._loads = 0
        """Loads begun since the start, and under way."""
        self._loading = 0
        self._jobs: dict[int, Job[Asked]] = {}

    def serve(self) -> None:
        """Until the gateway is gone."""
        for message, body in self._link.frames():
            match message:
                case Infer():
                    self._infer(message, body)
                case Load() | Estimate() | Unload():
                    self._loaders.submit(self._care, message)
                case Cancel():
                    if job := self._jobs.get(message.id):
                        job.cancelled = True

    # Requests

    def _infer(self, call: Infer, body: bytes) -> None:
        began = time.monotonic()
        served = self._models.get(call.model)
        if served is None:
            refuse(call.id, 503, f"model {call.name} is not loaded; try again", self._answer)
            return
        try:
            if call.encoding is not None:
                body = inflate(body, call.encoding, self._spec.most_body)
            request = served.decoder.decode(body, call.json_bytes)
        except (BadRequest, TooLarge) as error:
            status = 413 if isinstance(error, TooLarge) else 400
            refuse(call.id, status, str(error), self._answer)
            return
        except Exception:  # a bug of the codec must not end the worker
            logger.exception("a request could not be read")
            refuse(call.id, 500, "the request could not be read; the log says why", self._answer)
            return
        now = time.monotonic()
        asked = Asked(call, request, served, int((now - began) * 1e9))
        alike = request.signature if served.model.metadata.batches else None
        job = Job(asked, call.model, request.rows, alike, now)
        self._jobs[call.id] = job
        self._lanes.put(job)

    def _answer(self, answer: Answer, body: Sequence[Part]) -> None:
        self._jobs.pop(answer.id, None)
        self._link.send(answer, body)

    # Models

    def _care(self, message: Load | Estimate | Unload) -> None:
        slot = self._slots.get()
        try:
            with self._recorder.working(slot, message.model):
                match message:
                    case Estimate():
                        num_bytes = self._runtime.estimate(self._files(message))
                        self._link.send(Estimated(message.id, num_bytes))
                    case Load():
                        self._load(message)
                    case Unload():
                        self._unload(message)
        except ModelRefused as error:
            self._link.send(Failed(message.id, error.code, error.message))
        except MemoryError:
            sentence = "there is not enough memory for it; raise the memory_mib of its runtime"
            self._link.send(Failed(message.id, "out_of_memory", sentence))
        except Exception as error:  # whatever a framework raises
            logger.exception("a model could not be loaded")
            sentence = f"{type(error).__name__}: {error}"[:400]
            self._link.send(Failed(message.id, "load_failed", sentence))
        finally:
            self._slots.put(slot)

    def _files(self, message: Load | Estimate) -> ModelFiles:
        spec = self._spec
        return ModelFiles(Path(message.folder), message.options, spec.threads, spec.allow_unsafe)

    def _load(self, message: Load) -> None:
        self._loads += 1
        self._loading += 1
        before = self._loads, self._lanes.taken
        alone, bytes_before = self._loading == 1, resident_bytes()
        try:
            model = self._runtime.load(self._files(message))
        finally:
            self._loading -= 1
        grown = resident_bytes() - bytes_before
        if not alone or self._loads == 1 or (self._loads, self._lanes.taken) != before:
            grown = 0  # the first load is the framework's, too: it makes what it makes once
        self._lanes.open(message.model, message.batching)
        self._models[message.model] = Served(model, Decoder(model.metadata))
        self._link.send(Loaded(message.id, model.metadata, max(0, grown)))

    def _unload(self, message: Unload) -> None:
        served = self._models.pop(message.model, None)
        self._lanes.close(message.model)
        if served is not None:
            served.model.close()
            del served
            gc.collect()
            give_back_memory()
        self._link.send(Unloaded(message.id))


def give_back_memory() -> None:
    """Have the allocator return to the system what is free; only glibc's can."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def main() -> None:
    """Start, and serve until the gateway is gone."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    spec = read_spec(RuntimeSpec)
    end_with_gateway()
    link = Link(spec.socket_fd)
    try:
        runtime = open_runtime(spec.runtime)
    except (UnknownRuntime, ImportError) as error:
        logger.error("Error: the runtime %s cannot be opened: %s", spec.runtime, error)
        sys.exit(CANNOT_START)
    gc.collect()
    gc.freeze()  # what the framework made stays, and need not be looked at again
    if spec.memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (spec.memory_bytes, spec.memory_bytes))
    sys.setswitchinterval(SWITCH_SECONDS)
    worker = Worker(spec, runtime, link)
    link.send(Started(0, framework_of(spec.runtime)))
    try:
        worker.serve()
    finally:
        link.close()


if __name__ == "__main__":
    main()
