"""What the engines count and where adapters are, as metrics; docs/metrics.md says what each is for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from stackserve.edge.exposition import Sample, histogram, labels, metric
from stackserve.protocol import (
    GAP_BOUNDS,
    OTHER_KEY,
    TIERS,
    WAIT_BOUNDS,
    AdaptersSnapshot,
    KeyNumbers,
    ResidencyFacts,
)

COUNTERS = {
    "arrived": ("stackserve_engine_arrivals_total", "Requests that reached the engine"),
    "prompt_tokens": ("stackserve_engine_prompt_tokens_total", "Tokens of admitted prompts"),
    "generated_tokens": ("stackserve_engine_generated_tokens_total", "Tokens generated"),
    "hits": (
        "stackserve_adapter_hits_total",
        "Requests whose adapter was on the device when they arrived",
    ),
    "deferred": ("stackserve_adapter_deferrals_total", "Requests whose adapter was not"),
    "loads": ("stackserve_adapter_loads_total", "Adapters read into host memory"),
    "load_seconds": ("stackserve_adapter_loading_seconds_total", "Time that these loads took"),
    "loaded_bytes": ("stackserve_adapter_loaded_bytes_total", "Bytes that these loads brought"),
    "load_failures": ("stackserve_adapter_load_failures_total", "Loads that failed"),
    "drains": ("stackserve_adapter_drains_total", "Times an adapter began to drain for another"),
}
"""By the field of `KeyNumbers`."""

COUNTERS_BY = {
    "finished": (
        "stackserve_engine_requests_total",
        "Requests that the engine is done with, by how they ended",
        "outcome",
    ),
    "evicted": (
        "stackserve_adapter_evictions_total",
        "Times an adapter left its slot (device) or host memory (host)",
        "tier",
    ),
}
"""Likewise, with one label more."""

HISTOGRAMS = {
    "queue": (
        "stackserve_engine_queue_seconds",
        "From a request's arrival in the engine until it is first computed",
        WAIT_BOUNDS,
    ),
    "first_token": (
        "stackserve_engine_time_to_first_token_seconds",
        "From a request's arrival in the engine until its first tokens",
        WAIT_BOUNDS,
    ),
    "gap": (
        "stackserve_engine_inter_token_seconds",
        "Between a request's tokens, as they come",
        GAP_BOUNDS,
    ),
}

GAUGES = {
    "stackserve_engine_requests_running": "Requests in the batch",
    "stackserve_engine_requests_waiting": "Requests that are not",
    "stackserve_adapter_resident": "Versions of a key's adapter in a tier",
    "stackserve_adapter_pinned": "1 while an adapter of the key is pinned",
    "stackserve_adapters": "Adapters in a tier",
    "stackserve_adapter_bytes": "Bytes of the adapters in a tier",
    "stackserve_adapter_slots": "Adapters that fit on the device",
    "stackserve_adapter_host_bytes": "Host memory that adapters take",
    "stackserve_adapter_host_limit_bytes": "Host memory that adapters may take",
}


def engine_metrics(engines: Mapping[str, AdaptersSnapshot]) -> Iterator[str]:
    """The lines of all metrics of the engines, which come by their group."""
    yield from _counted(
        [
            (labels(group=group, key=numbers.key), numbers)
            for group, snapshot in engines.items()
            for numbers in snapshot.keys
        ]
    )
    yield from histogram(
        "stackserve_adapter_load_seconds",
        "Time that a load of an adapter into host memory took",
        WAIT_BOUNDS,
        ((labels(group=group), snapshot.loads) for group, snapshot in engines.items()),
    )
    samples: dict[str, list[Sample]] = defaultdict(list)
    for group, snapshot in engines.items():
        for name, at, value in _gauges(group, snapshot):
            samples[name].append((at, value))
    for name, about in GAUGES.items():
        yield from metric(name, "gauge", about, samples[name])


def _counted(keys: list[tuple[str, KeyNumbers]]) -> Iterator[str]:
    for field, (name, about) in COUNTERS.items():
        yield from metric(name, "counter", about, ((at, getattr(n, field)) for at, n in keys))
    for field, (name, about, label) in COUNTERS_BY.items():
        samples = (
            (f'{at},{label}="{value}"', count)
            for at, numbers in keys
            for value, count in getattr(numbers, field).items()
        )
        yield from metric(name, "counter", about, samples)
    for field, (name, about, bounds) in HISTOGRAMS.items():
        yield from histogram(name, about, bounds, ((at, getattr(n, field)) for at, n in keys))


def _gauges(group: str, snapshot: AdaptersSnapshot) -> Iterator[tuple[str, str, float]]:
    """Metric, labels and value of each gauge of one group."""
    if (residency := snapshot.residency) is None:
        return
    yield from _gauges_by_key(group, [numbers.key for numbers in snapshot.keys], residency)
    for tier in TIERS:
        at = labels(group=group, tier=tier)
        sizes = [facts.num_bytes for facts in residency.adapters if facts.tier == tier]
        yield "stackserve_adapters", at, len(sizes)
        yield "stackserve_adapter_bytes", at, sum(sizes)
    at = labels(group=group)
    yield "stackserve_adapter_slots", at, residency.slots
    yield "stackserve_adapter_host_bytes", at, residency.host_bytes
    yield "stackserve_adapter_host_limit_bytes", at, residency.host_limit


def _gauges_by_key(
    group: str, keys: Sequence[str], residency: ResidencyFacts
) -> Iterator[tuple[str, str, float]]:
    """Those that are not among `keys` are one, as in the counters."""
    counted = frozenset(keys)

    def shown(key: str) -> str:
        return key if key in counted else OTHER_KEY

    running, waiting = Counter(dict.fromkeys(keys, 0)), Counter(dict.fromkeys(keys, 0))
    resident: Counter[tuple[str, str]] = Counter()
    running[shown(residency.base_key)] += residency.base_running
    waiting[shown(residency.base_key)] += residency.base_waiting
    for facts in residency.adapters:
        key = shown(facts.key)
        running[key] += facts.running
        waiting[key] += facts.waiting
        if facts.tier in TIERS:
            resident[key, facts.tier] += 1
    for key in running:
        at = labels(group=group, key=key)
        yield "stackserve_engine_requests_running", at, running[key]
        yield "stackserve_engine_requests_waiting", at, waiting[key]
    for (key, tier), versions in resident.items():
        yield "stackserve_adapter_resident", labels(group=group, key=key, tier=tier), versions
    for key in sorted({shown(facts.key) for facts in residency.adapters if facts.pinned}):
        yield "stackserve_adapter_pinned", labels(group=group, key=key), 1
