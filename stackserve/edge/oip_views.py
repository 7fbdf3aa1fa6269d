"""What the Open Inference Protocol tells of a model: metadata, configuration, statistics, index."""

from __future__ import annotations

from typing import Any

from stackserve.hosting.host import ModelHost
from stackserve.hosting.models import HostedModel, ModelState
from stackserve.hosting.statistics import Duration
from stackserve.runtimes.base import Metadata, TensorSpec

Json = dict[str, Any]

TYPES = {"BYTES": "TYPE_STRING"}
"""Triton's names of datatypes in a configuration, where they are not TYPE_ and the name."""

WORDS = {
    ModelState.READY: "READY",
    ModelState.LOADING: "LOADING",
    ModelState.UNLOADING: "UNLOADING",
    ModelState.UNLOADED: "UNAVAILABLE",
    ModelState.QUARANTINED: "UNAVAILABLE",
}


def metadata(name: str, model: HostedModel, versions: list[str]) -> Json:
    """Of a model that was loaded once."""
    known = _known(model)
    return {
        "name": name,
        "versions": versions,
        "platform": known.platform,
        "inputs": [_tensor(spec) for spec in known.inputs],
        "outputs": [_tensor(spec) for spec in known.outputs],
    }


def config(name: str, model: HostedModel, versions: list[str]) -> Json:
    """As Triton words it: with a batch size the first dimension is left out."""
    known = _known(model)
    rows = model.source.batching.max_rows if known.batches else 0
    settings: Json = {
        "name": name,
        "platform": known.platform,
        "backend": model.source.runtime,
        "version_policy": {"specific": {"versions": versions}},
        "max_batch_size": rows,
        "input": [_configured(spec, known) for spec in known.inputs],
        "output": [_configured(spec, known) for spec in known.outputs],
    }
    if known.batches:
        delay = int(model.source.batching.max_delay * 1e6)
        settings["dynamic_batching"] = {"max_queue_delay_microseconds": delay}
    return settings


def index_entry(name: str, model: HostedModel, host: ModelHost) -> Json:
    """A model is READY, too, when it is loaded as soon as it is asked for."""
    state = "READY" if host.answers(model) else WORDS[model.state]
    failure = model.failure.message if model.failure else ""
    reason = "" if state == "READY" else model.reason or failure
    return {"name": name, "version": model.source.version, "state": state, "reason": reason}


def statistics(name: str, model: HostedModel) -> Json:
    counted = model.statistics
    return {
        "name": name,
        "version": model.source.version,
        "last_inference": int(counted.last_inference * 1000),
        "inference_count": counted.rows,
        "execution_count": counted.executions,
        "inference_stats": {
            "success": _duration(counted.success),
            "fail": _duration(counted.fail),
            "queue": _duration(counted.queue),
            "compute_input": _duration(counted.compute_input),
            "compute_infer": _duration(counted.compute_infer),
            "compute_output": _duration(counted.compute_output),
            "cache_hit": _duration(Duration()),
            "cache_miss": _duration(Duration()),
        },
        "batch_stats": [],
        "memory_usage": [{"type": "CPU", "id": 0, "byte_size": model.charge}],
    }


def _duration(duration: Duration) -> Json:
    return {"count": duration.count, "ns": duration.ns}


def _tensor(spec: TensorSpec) -> Json:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}


def _configured(spec: TensorSpec, known: Metadata) -> Json:
    shape = spec.shape[1:] if known.batches else spec.shape
    kind = TYPES.get(spec.datatype, f"TYPE_{spec.datatype}")
    return {"name": spec.name, "data_type": kind, "dims": shape}


def _known(model: HostedModel) -> Metadata:
    assert model.metadata is not None, "it was loaded once"
    return model.metadata
