"""A runtime without a framework, for tests of everything around one: it can be slow, large, and die.

A model is a folder with `fake.json`, whose fields are those of `Behaviour`; all of them may be left out. It
multiplies: `x` FP32 [-1, -1] gives `y` of the same shape.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection
from pathlib import Path

import msgspec
import numpy as np

from stackserve.runtimes.base import (
    BadInput,
    Metadata,
    Model,
    ModelFiles,
    ModelRefused,
    Runtime,
    Tensors,
    TensorSpec,
)
from stackserve.runtimes.model_file import inside

DESCRIPTION = "fake.json"
LEAST = 4096

KEPT: list[bytearray] = []
"""What models with `leak` do not give back."""


class Behaviour(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a fake model does. Values are compared with each number of the input."""

    factor: float = 2.0
    bytes: int = 0
    """Memory that it holds, written to."""
    estimate: int | None = None
    """Bytes that it says it will take, else a little more than `bytes`."""
    leak: bool = False
    """Its memory is held after it is closed."""
    load_seconds: float = 0.0
    sleep_seconds: float = 0.0
    """Of each inference."""
    rows_out: int | None = None
    """Rows that it gives, however many it gets."""
    batches: bool = True
    crash_at_load: bool = False
    """SIGKILL, to its own process."""
    crash_on: float | None = None
    fail_on: float | None = None
    """The framework raises."""
    reject_on: float | None = None
    """The input is bad."""
    refuse: str | None = None
    """The code with which it refuses to load."""


class FakeModel(Model):
    """Multiplies, and does what `fake.json` says."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        # Not zeros, of which the system would hold no page.
        self._held = bytearray(b"\1") * behaviour.bytes
        if behaviour.leak:
            KEPT.append(self._held)
        spec = TensorSpec("x", "FP32", (-1, -1))
        output = TensorSpec("y", "FP32", (-1, -1))
        self.metadata = Metadata("fake", (spec,), (output,), behaviour.batches)

    def infer(self, inputs: Tensors, wanted: Collection[str]) -> Tensors:
        behaviour, x = self._behaviour, inputs["x"]
        time.sleep(behaviour.sleep_seconds)
        if behaviour.crash_on is not None and behaviour.crash_on in x:
            die()
        if behaviour.fail_on is not None and behaviour.fail_on in x:
            raise RuntimeError(f"the model fails on {behaviour.fail_on}")
        if behaviour.reject_on is not None and behaviour.reject_on in x:
            raise BadInput(f"input x holds {behaviour.reject_on}")
        y = x * np.float32(behaviour.factor)
        if behaviour.rows_out is not None:
            y = np.resize(y, (behaviour.rows_out, x.shape[1]))
        return dict.fromkeys(wanted, y)

    def close(self) -> None:
        self._held = bytearray()


class FakeRuntime(Runtime):
    """Loads the folders of fake models."""

    def estimate(self, files: ModelFiles) -> int:
        behaviour = read_behaviour(files.folder)
        return behaviour.bytes + LEAST if behaviour.estimate is None else behaviour.estimate

    def load(self, files: ModelFiles) -> Model:
        behaviour = read_behaviour(files.folder)
        time.sleep(behaviour.load_seconds)
        if behaviour.crash_at_load:
            die()
        if behaviour.refuse is not None:
            raise ModelRefused(behaviour.refuse, f"{DESCRIPTION} says to refuse; take the line out")
        return FakeModel(behaviour)


def read_behaviour(folder: Path) -> Behaviour:
    """Raises ModelRefused."""
    path = inside(folder, DESCRIPTION)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Behaviour)
    except msgspec.MsgspecError as error:
        raise ModelRefused(
            "invalid_model", f"{DESCRIPTION} is not what it should be ({error}); correct it"
        ) from error


def die() -> None:
    """As of the system's hand: no clean-up, no goodbye."""
    os.kill(os.getpid(), signal.SIGKILL)
