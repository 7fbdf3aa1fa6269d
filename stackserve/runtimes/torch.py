"""PyTorch: weights as safetensors with a registered architecture, or an exported program (.pt2)."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.export.pt2_archive._package import PT2ArchiveWriter

from stackserve.runtimes.architectures import architecture
from stackserve.runtimes.base import (
    Metadata,
    Model,
    ModelFiles,
    ModelRefused,
    Runtime,
    TensorSpec,
    first_line,
)
from stackserve.runtimes.datatypes import DATATYPES
from stackserve.runtimes.exported_programs import exported_model
from stackserve.runtimes.model_file import inside
from stackserve.runtimes.pt2_archive import scanned_entries
from stackserve.runtimes.torch_model import TorchModel
from stackserve.runtimes.torch_tensors import use_threads
from stackserve.runtimes.weights import weights_memory

DESCRIPTION = "architecture.json"
UNSAFE = frozenset({".pt", ".pth"})
SUFFIXES = frozenset({".safetensors", ".pt2", *UNSAFE})
MEMORY = 2.2
"""Bytes of memory at the height of loading, per byte of a .pt2 file: benchmarked for 64 to 512 MB of weights as
the growth of VmHWM, which was 2.07 times the file and 30 MB for the first program of a process.
"""
LEAST = 4 << 20
"""Bytes of a module without weights to speak of."""
PROGRAM = 48 << 20
"""Bytes of an exported program without weights to speak of."""

EXPORT = threading.Lock()
"""torch reads one program at a time: it keeps it in a global variable meanwhile."""


class Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor in architecture.json."""

    name: str
    datatype: str
    shape: list[int]


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """architecture.json."""

    architecture: str
    inputs: list[Named]
    outputs: list[Named]
    arguments: dict[str, Any] = {}
    batches: bool | None = None
    """None: if the first dimension of every tensor is any size."""


class TorchRuntime(Runtime):
    """Loads either form, and TorchScript where unsafe formats are allowed."""

    def estimate(self, files: ModelFiles) -> int:
        path = model_file(files)
        if path.suffix == ".safetensors":
            return LEAST + weights_memory([path])
        return PROGRAM + int(MEMORY * path.stat().st_size)

    def load(self, files: ModelFiles) -> Model:
        path = model_file(files)
        use_threads(files.threads)
        if path.suffix == ".safetensors":
            return load_weights(files.folder, path)
        if path.suffix == ".pt2":
            return load_exported(path, files)
        return load_script(files.folder, path)


def model_file(files: ModelFiles) -> Path:
    """The file with the weights. Raises ModelRefused."""
    if files.options:
        raise ModelRefused(
            "invalid_options",
            f"the torch runtime takes no option {min(files.options)!r}; remove it",
        )
    folder = files.folder
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    if len(found) != 1:
        shown = ", ".join(path.name for path in found[:3]) or "none"
        raise ModelRefused(
            "format_ambiguous" if found else "format_unknown",
            f"{folder.name} must hold one .safetensors or .pt2 file and holds {shown}; put each model into "
            "a folder of its own",
        )
    path = found[0]
    if path.suffix in UNSAFE and not files.allow_unsafe:
        raise ModelRefused(
            "unsafe_format",
            f"{path.name} can run code when it is read; save the model as safetensors, .pt2 or ONNX, or set "
            "allow_unsafe_formats if you made the file yourself",
        )
    if path.suffix != ".pt2" and not (folder / DESCRIPTION).is_file():
        raise ModelRefused(
            "description_missing",
            f"{path.name} needs {DESCRIPTION} beside it, which says of what architecture it is; write one as "
            "docs/runtimes.md shows",
        )
    return inside(folder, path.name)


def load_weights(folder: Path, path: Path) -> Model:
    """Weights into a new module of the architecture."""
    description = read_description(folder)
    try:
        module = architecture(description.architecture)(**description.arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelRefused(
            "invalid_description",
            f"the arguments in {DESCRIPTION} make no {description.architecture!r} ({error}); correct them",
        ) from error
    fill(module, path)
    return described_model(description, module, "torch_safetensors")


def read_description(folder: Path) -> Description:
    """Raises ModelRefused."""
    try:
        description = msgspec.json.decode((folder / DESCRIPTION).read_bytes(), type=Description)
    except (msgspec.MsgspecError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise ModelRefused(
            "invalid_description", f"{DESCRIPTION} is not what it should be ({error}); correct it"
        ) from error
    for tensor in (*description.inputs, *description.outputs):
        if (
            tensor.datatype not in DATATYPES
            or tensor.datatype == "BYTES"
            or min(tensor.shape, default=0) < -1
        ):
            raise ModelRefused(
                "invalid_description",
                f"{DESCRIPTION} says {tensor.datatype} {tensor.shape} of the tensor {tensor.name!r}; write a "
                "number's datatype of the Open Inference Protocol, and sizes or -1",
            )
    return description


def fill(module: Any, path: Path) -> None:
    """Load every tensor of the module from the file, and no other."""
    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ModelRefused(
            "model_unreadable", f"{path.name} is no safetensors file ({error}); save it again"
        ) from error
    own = module.state_dict()
    problems = [f"no tensor {name!r}" for name in sorted(own.keys() - state.keys())]
    problems += [f"a tensor {name!r} too many" for name in sorted(state.keys() - own.keys())]
    problems += [
        f"{name!r} of shape {list(state[name].shape)} instead of {list(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if state[name].shape != own[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ModelRefused(
            "weights_mismatch",
            f"{path.name} has {', '.join(problems[:3])}{more}; correct the arguments in {DESCRIPTION} or "
            "save the weights of this architecture",
        )
    module.load_state_dict(state, strict=True)


def described_model(description: Description, module: Any, platform: str) -> Model:
    module.eval()
    inputs, outputs = (
        tuple(TensorSpec(each.name, each.datatype, tuple(each.shape)) for each in tensors)
        for tensors in (description.inputs, description.outputs)
    )
    any_rows = all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs))
    metadata = Metadata(platform, inputs, outputs, description.batches is not False and any_rows)

    def run(given: list[Any]) -> list[Any]:
        result = module(*given)
        if isinstance(result, dict):
            return [result[spec.name] for spec in outputs]
        return list(result) if isinstance(result, tuple | list) else [result]

    return TorchModel(metadata, run, [None] * len(inputs))


def load_script(folder: Path, path: Path) -> Model:
    """TorchScript, which somebody has vouched for."""
    module = torch.jit.load(str(path), map_location="cpu")
    return described_model(read_description(folder), module, "torch_script")


def load_exported(path: Path, files: ModelFiles) -> Model:
    """An exported program, from a new archive of what was scanned unless somebody vouches for the file."""
    source: Any = str(path)
    if not files.allow_unsafe:
        entries = scanned_entries(path)
        source = io.BytesIO()
        with PT2ArchiveWriter(source) as writer:
            while entries:
                writer.write_bytes(*entries.popitem())
        source.seek(0)
    try:
        with EXPORT:
            return exported_model(torch.export.load(source), path.name)
    except ModelRefused:
        raise
    except Exception as error:  # torch raises what it likes for a damaged program
        raise ModelRefused(
            "model_unreadable",
            f"{path.name} is no program that this torch reads ({first_line(error)[:200]}); "
            f"export it again with torch {torch.__version__}",
        ) from error
