"""Which runtime reads a model, by the names of its files."""

from __future__ import annotations

from pathlib import Path

from stackserve.runtimes.base import ModelRefused

UNSAFE = frozenset({".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".sav"})
"""Reading such a file can run code that somebody put in it."""

BY_SUFFIX = {
    ".onnx": "onnx",
    ".skops": "sklearn",
    ".ubj": "xgboost",
    ".lgb": "lightgbm",
    ".pt2": "torch",
}
BY_NAME = {
    "saved_model.pb": "tensorflow",
    "architecture.json": "torch",
    "model.json": "xgboost",
    "model.txt": "lightgbm",
}


def runtime_of(folder: Path) -> str:
    """The name of the runtime for the files at the top of a folder. Raises ModelRefused."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    if "config.json" in names and any(name.endswith(".safetensors") for name in names):
        return "transformers"
    found = {BY_NAME.get(name) or BY_SUFFIX.get(Path(name).suffix) for name in names} - {None}
    if len(found) == 1:
        return str(found.pop())
    if found:
        many = ", ".join(sorted(map(str, found)))
        raise ModelRefused(
            "format_ambiguous", f"{folder.name} has files for {many}; name its runtime"
        )
    unsafe = [name for name in names if Path(name).suffix in UNSAFE]
    if unsafe:
        raise ModelRefused(
            "unsafe_format",
            f"{unsafe[0]} can run code when it is read; save the model as ONNX, skops or safetensors, "
            "or name its runtime and set allow_unsafe_formats if you made the file yourself",
        )
    shown = ", ".join(names[:5]) or "nothing"
    raise ModelRefused(
        "format_unknown",
        f"{folder.name} holds {shown}, and none of that names a runtime; docs/runtimes.md lists the "
        "files that do",
    )
