"""The runtimes by name: those that ship with stackserve, and those of other packages, which name them in
the entry-point group `stackserve.runtimes`.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version

from stackserve.runtimes.base import Runtime

GROUP = "stackserve.runtimes"

BUILT_IN = {
    "onnx": "stackserve.runtimes.onnx:OnnxRuntime",
    "sklearn": "stackserve.runtimes.sklearn:SklearnRuntime",
    "xgboost": "stackserve.runtimes.xgboost:XgboostRuntime",
    "lightgbm": "stackserve.runtimes.lightgbm:LightgbmRuntime",
    "torch": "stackserve.runtimes.torch:TorchRuntime",
    "tensorflow": "stackserve.runtimes.tensorflow:TensorflowRuntime",
    "transformers": "stackserve.runtimes.transformers:TransformersRuntime",
    "fake": "stackserve.runtimes.fake:FakeRuntime",
}

PACKAGES = {
    "onnx": "onnxruntime",
    "sklearn": "scikit-learn",
    "xgboost": "xgboost-cpu",
    "tensorflow": "tensorflow-cpu",
    "fake": "stackserve",
}
"""Whose version is told, where its name is not the runtime's."""


class UnknownRuntime(Exception):
    """No package of this environment has a runtime of that name."""


def runtime_names() -> list[str]:
    """Of all runtimes of this environment. Imports none of them."""
    return sorted({*BUILT_IN, *(entry.name for entry in entry_points(group=GROUP))})


def open_runtime(name: str) -> Runtime:
    """Import a runtime with its framework, and make it.

    Raises UnknownRuntime, and ImportError when its framework is not installed.
    """
    runtime: Runtime = _entry(name).load()()
    return runtime


def framework_of(name: str) -> str:
    """The framework's name and version, as installed."""
    package = PACKAGES.get(name, name)
    if name not in BUILT_IN and (dist := _entry(name).dist) is not None:
        package = dist.name
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:  # it is installed under another name, such as xgboost
        return name


def _entry(name: str) -> EntryPoint:
    if name in BUILT_IN:
        return EntryPoint(name, BUILT_IN[name], GROUP)
    for entry in entry_points(group=GROUP, name=name):
        return entry
    raise UnknownRuntime(
        f"there is no runtime {name!r} in this environment; there are {', '.join(runtime_names())}"
    )
