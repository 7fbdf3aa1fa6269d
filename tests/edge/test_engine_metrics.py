"""Engines' snapshots as Prometheus reads them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stackserve.edge.engine_metrics import engine_metrics
from stackserve.edge.oip_metrics import OF_HOSTS, OF_MODELS
from stackserve.edge.router_metrics import router_metrics
from stackserve.meters import AdapterMeters
from stackserve.metrics import Metrics as GatewayMetrics
from stackserve.protocol import OTHER_KEY, AdapterFacts, AdaptersSnapshot, ResidencyFacts
from tests.edge.prometheus import Metrics

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def busy(
    *keys: str, most_keys: int = 1000, residency: ResidencyFacts | None = None
) -> AdaptersSnapshot:
    """Each of these keys has had one request with an adapter that came and went."""
    meters = AdapterMeters(most_keys)
    for key in keys:
        meters.arrived(key)
        meters.deferred(key)
        meters.hit(key)
        meters.loaded(key, 0.02, 1000)
        meters.load_failed(key)
        meters.admitted(key, 0.3, prompt_tokens=7)
        meters.generated(key, 1, ttft=0.5, gap=None)
        meters.generated(key, 3, ttft=None, gap=0.04)
        meters.finished(key, "stop")
        meters.drained(key)
        meters.evicted(key, "device")
    return meters.snapshot(residency)


def test_every_count_is_there_by_group_and_key() -> None:
    shown = Metrics(engine_metrics({"g": busy("a", "a", "b"), "h": busy("c")}))
    of_a = {"group": "g", "key": "a"}
    counts = {
        name: shown(f"stackserve_{name}_total", **of_a)
        for name in (
            "engine_arrivals", "engine_prompt_tokens", "engine_generated_tokens", "adapter_hits",
            "adapter_deferrals", "adapter_loads", "adapter_loading_seconds", "adapter_loaded_bytes",
            "adapter_load_failures", "adapter_drains",
        )
    }  # fmt: skip
    assert list(counts.values()) == [2, 14, 8, 2, 2, 2, 0.04, 2000, 2, 2]
    assert shown("stackserve_engine_requests_total", outcome="stop", **of_a) == 2
    assert shown("stackserve_adapter_evictions_total", tier="device", **of_a) == 2
    assert shown("stackserve_engine_arrivals_total", group="g", key="b") == 1
    assert shown("stackserve_engine_arrivals_total", group="h", key="c") == 1


def test_a_histogram_counts_up_to_each_bound() -> None:
    shown = Metrics(engine_metrics({"g": busy("a", "a")}))
    name, of_a = "stackserve_engine_time_to_first_token_seconds", {"group": "g", "key": "a"}
    assert shown(f"{name}_bucket", le="0.25", **of_a) == 0
    assert shown(f"{name}_bucket", le="0.5", **of_a) == 2
    assert shown(f"{name}_bucket", le="+Inf", **of_a) == 2
    assert shown(f"{name}_sum", **of_a) == 1.0
    assert shown(f"{name}_count", **of_a) == 2
    assert shown("stackserve_engine_queue_seconds_sum", **of_a) == 0.6
    assert shown("stackserve_engine_inter_token_seconds_bucket", le="0.05", **of_a) == 2
    assert shown("stackserve_adapter_load_seconds_count", group="g") == 2


def test_residency_is_there_by_tier_and_key() -> None:
    adapters = (
        AdapterFacts("a", "device", 100, running=2, waiting=1, pinned=True),
        AdapterFacts("a", "host", 30),
        AdapterFacts("b", "host", 50),
        AdapterFacts("c", "staging", waiting=4),
        AdapterFacts("d", "disk", waiting=1),
    )
    residency = ResidencyFacts(8, 180, 4096, adapters, "smol", base_running=5, base_waiting=6)
    shown = Metrics(engine_metrics({"g": busy(residency=residency)}))

    def by_key(name: str) -> dict[str, float]:
        keys = (labels["key"] for labels in shown.labels(name))
        return {key: shown(name, group="g", key=key) for key in keys}

    running = by_key("stackserve_engine_requests_running")
    waiting = by_key("stackserve_engine_requests_waiting")
    assert running == {"smol": 5, "a": 2, "b": 0, "c": 0, "d": 0}
    assert waiting == {"smol": 6, "a": 1, "b": 0, "c": 4, "d": 1}
    assert by_key("stackserve_adapter_pinned") == {"a": 1}
    resident = {
        (labels["key"], labels["tier"]) for labels in shown.labels("stackserve_adapter_resident")
    }
    assert resident == {("a", "device"), ("a", "host"), ("b", "host"), ("c", "staging")}
    tiers = {
        tier: (
            shown("stackserve_adapters", group="g", tier=tier),
            shown("stackserve_adapter_bytes", group="g", tier=tier),
        )
        for tier in ("staging", "host", "device")
    }
    assert tiers == {"staging": (1, 0), "host": (2, 80), "device": (1, 100)}
    assert shown("stackserve_adapter_slots", group="g") == 8
    assert shown("stackserve_adapter_host_bytes", group="g") == 180
    assert shown("stackserve_adapter_host_limit_bytes", group="g") == 4096


@pytest.mark.parametrize("keys", [50, 500])
def test_series_do_not_grow_with_keys_beyond_those_counted_one_by_one(keys: int) -> None:
    names = [f"k{number}" for number in range(keys)]
    adapters = tuple(AdapterFacts(name, "host", 10, waiting=1) for name in names)
    residency = ResidencyFacts(8, 10 * keys, 10_000, adapters)
    snapshot = busy(*names, most_keys=10, residency=residency)
    lines = [*engine_metrics({"g": snapshot}), *router_metrics({"g": snapshot}, 1.0)]
    shown = Metrics(lines)
    seen = {value for _, labels in shown.samples for name, value in labels if name == "key"}
    assert seen == {*names[:10], OTHER_KEY}
    assert len(shown.samples) < 11 * 75 + 40
    arrivals = (value for (name, _), value in shown.samples.items() if "arrivals" in name)
    waiting = (value for (name, _), value in shown.samples.items() if name.endswith("_waiting"))
    assert (sum(arrivals), sum(waiting)) == (keys, keys)


def test_an_engine_that_knows_no_residency_has_counts_alone() -> None:
    shown = Metrics(engine_metrics({"g": busy("a")}))
    assert shown("stackserve_engine_arrivals_total", group="g", key="a") == 1
    assert not shown.labels("stackserve_adapter_slots")


def test_a_name_with_a_quote_is_written_as_prometheus_reads_it() -> None:
    odd = 'a"\\\n'
    shown = Metrics(engine_metrics({"g": busy(odd)}))
    assert shown("stackserve_engine_arrivals_total", group="g", key=odd) == 1


def test_the_documentation_names_every_metric_and_no_other() -> None:
    snapshot = busy("a", residency=ResidencyFacts(8, 0, 0))
    lines = [*engine_metrics({"g": snapshot}), *router_metrics({"g": snapshot}, 1.0)]
    text = GatewayMetrics().render().decode() + "".join(lines)
    shown = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    shown |= {series.name for series in OF_MODELS} | {name for name, _ in OF_HOSTS}
    tables = [line for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    named = {re.match(r"\| `([\w:]+)", line).group(1) for line in tables}
    assert named == shown
