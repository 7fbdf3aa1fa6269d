"""What is counted of models of other frameworks, as Prometheus text, under Triton's names where it has
one. Labels take only configured names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from stackserve.hosting.host import ModelHost
from stackserve.hosting.models import HostedModel, ModelState
from stackserve.hosting.statistics import Statistics


@dataclass(frozen=True)
class Series:
    """One metric of every model."""

    name: str
    kind: str
    text: str
    value: Callable[[HostedModel], float]


def _counted(name: str, text: str, value: Callable[[Statistics], float]) -> Series:
    return Series(name, "counter", text, lambda model: value(model.statistics))


OF_MODELS = (
    _counted("nv_inference_request_success", "Requests answered", lambda s: s.success.count),
    _counted("nv_inference_request_failure", "Requests that failed", lambda s: s.fail.count),
    _counted("nv_inference_count", "Rows computed", lambda s: s.rows),
    _counted("nv_inference_exec_count", "Batches computed", lambda s: s.executions),
    _counted(
        "nv_inference_request_duration_us",
        "Microseconds of answered requests, loading included",
        lambda s: s.success.ns // 1000,
    ),
    _counted(
        "nv_inference_queue_duration_us",
        "Microseconds that requests waited in the worker",
        lambda s: s.queue.ns // 1000,
    ),
    _counted(
        "nv_inference_compute_input_duration_us",
        "Microseconds of reading requests",
        lambda s: s.compute_input.ns // 1000,
    ),
    _counted(
        "nv_inference_compute_infer_duration_us",
        "Microseconds of computing",
        lambda s: s.compute_infer.ns // 1000,
    ),
    _counted(
        "nv_inference_compute_output_duration_us",
        "Microseconds of writing answers",
        lambda s: s.compute_output.ns // 1000,
    ),
    _counted("stackserve_model_loads", "Loads that succeeded", lambda s: s.loads),
    _counted("stackserve_model_load_failures", "Loads that failed", lambda s: s.load_failures),
    _counted("stackserve_model_load_seconds", "Seconds of loads", lambda s: s.load_seconds),
    _counted("stackserve_model_evictions", "Unloads for others", lambda s: s.evictions),
    Series(
        "nv_inference_pending_request_count",
        "gauge",
        "Requests that wait or run",
        lambda model: model.uses,
    ),
    Series(
        "stackserve_model_bytes",
        "gauge",
        "Memory that the model is charged, 0 while it is not loaded",
        lambda model: model.charge,
    ),
    Series(
        "stackserve_model_quarantined",
        "gauge",
        "1 while the model is kept out because its worker crashed with it",
        lambda model: model.state is ModelState.QUARANTINED,
    ),
)


OF_HOSTS = (
    ("stackserve_models_budget_bytes", "Memory that a group's models may take"),
    ("stackserve_models_charged_bytes", "Memory that its loaded models are charged"),
    ("stackserve_models_grown_bytes", "Memory by which its workers grew with models"),
    ("stackserve_models_resident", "Models that are loaded"),
)
"""Gauges of every group."""


def oip_metrics(hosts: Sequence[tuple[str, ModelHost]]) -> Iterator[str]:
    """Of the hosts by their groups. Its length grows with the models: 16 lines for each version."""
    if not hosts:
        return
    models = [(_labels(group, each), each) for group, host in hosts for each in host.models()]
    for series in OF_MODELS:
        yield f"# HELP {series.name} {series.text}\n# TYPE {series.name} {series.kind}\n"
        for labels, model in models:
            yield f"{series.name}{labels} {float(series.value(model)):.17g}\n"
    memory = [(g, host.plan.budget, *host.memory(), _resident(host)) for g, host in hosts]
    for place, (name, text) in enumerate(OF_HOSTS, 1):
        yield f"# HELP {name} {text}\n# TYPE {name} gauge\n"
        for numbers in memory:
            yield f'{name}{{group="{numbers[0]}"}} {numbers[place]}\n'


def _resident(host: ModelHost) -> int:
    return sum(model.state is ModelState.READY for model in host.models())


def _labels(group: str, model: HostedModel) -> str:
    key, version = model.source.key, model.source.version
    return f'{{group="{group}",model="{key}",version="{version}"}}'
