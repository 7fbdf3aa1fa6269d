"""Small .pt2 files of exported programs, made and taken apart here."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stackserve.runtimes.base import ModelFiles, ModelRefused
from stackserve.runtimes.torch import TorchRuntime

Entries = dict[str, bytes]
ROWS = torch.export.Dim("rows")


class Net(torch.nn.Module):
    """With parameters, a buffer, a constant, a region without gradients and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.linear = torch.nn.Sequential(torch.nn.Linear(4, 3))
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0]))
        self.constant = torch.ones(1)

    def forward(self, x: Any, shift: Any) -> dict[str, Any]:
        with torch.no_grad():
            y = self.linear(x) * self.scale + self.constant
        gelu = torch.nn.functional.gelu(y, approximate="tanh")
        return {"y": gelu, "low": (y + shift).masked_fill(y > 0, float("-inf"))}


def exported(module: torch.nn.Module, inputs: tuple[Any, ...], shapes: tuple[Any, ...]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(module.eval(), inputs, dynamic_shapes=shapes), buffer)
    return buffer.getvalue()


def net_file() -> bytes:
    """Of a Net, for any number of rows."""
    inputs = (torch.ones(2, 4), torch.ones(2, 1))
    return exported(Net(), inputs, ({0: ROWS}, {0: ROWS}))


def saved(folder: Path, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.pt2").write_bytes(content)
    return folder


def entries_of(content: bytes) -> Entries:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(entries: Entries, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def refusal(folder: Path) -> ModelRefused:
    with pytest.raises(ModelRefused) as caught:
        TorchRuntime().load(ModelFiles(folder))
    return caught.value


def inputs_of(count: int) -> dict[str, Any]:
    random = np.random.default_rng(count)
    x, shift = random.normal(size=(count, 4)), random.normal(size=(count, 1))
    return {"x": x.astype(np.float32), "shift": shift.astype(np.float32)}
