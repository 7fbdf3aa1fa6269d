"""Where adapters are, under vLLM's metric names: for routers that choose among servers by it.

`vllm:lora_requests_info` is read by the lora-affinity-scorer of llm-d and of the Gateway API inference
extension: of its series the one with the largest value, which is the time, and of that the labels. Their
protocol has it that running adapters are loaded in the device's memory and ready to serve, and that
waiting ones wait to be served; both together are compared with `max_lora`. vLLM 0.32 lists each adapter
that has requests under both names, and no idle one (llm-d-router #2605). Here an adapter on the device
is running, idle or not, and none is both.

`vllm:lora_adapter_loaded` and the two after it are those of vLLM #54830, which is in no release yet; the
lora-load-state-scorer of llm-d reads them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from stackserve.edge.exposition import labels, metric
from stackserve.protocol import AdaptersSnapshot, ResidencyFacts

MOST_WAITING = 100
"""Adapters named as waiting, by the length of their queues; more would only make the label long."""

LEVELS = {"device": "gpu", "host": "cpu"}


def router_metrics(engines: Mapping[str, AdaptersSnapshot], now: float) -> Iterator[str]:
    """The lines of the metrics of all groups. `now` is in seconds since 1970."""
    known = [
        (group, facts, {numbers.key for numbers in snapshot.keys})
        for group, snapshot in engines.items()
        if (facts := snapshot.residency) is not None
    ]
    yield from metric(
        "vllm:lora_requests_info",
        "gauge",
        "Adapters on the device and adapters that wait; the value is the time",
        ((_requests_info(group, facts), now) for group, facts, _ in known),
    )
    yield from metric(
        "vllm:lora_adapter_loaded",
        "gauge",
        "1 while an adapter is on the device (gpu), or in host memory alone (cpu)",
        ((at, 1) for each in known for at in _loaded(*each)),
    )
    yield from metric(
        "vllm:num_gpu_loaded_lora_adapters",
        "gauge",
        "Adapters on the device",
        ((_server(group, facts), len(_on_device(facts))) for group, facts, _ in known),
    )
    yield from metric(
        "vllm:max_gpu_lora_adapters",
        "gauge",
        "Adapters that fit on the device",
        ((_server(group, facts), facts.slots) for group, facts, _ in known),
    )


def _requests_info(group: str, facts: ResidencyFacts) -> str:
    running = {each.key for each in facts.adapters if each.tier == "device" and not each.draining}
    queues: Counter[str] = Counter()
    for each in facts.adapters:
        if each.waiting and each.key not in running:
            queues[each.key] += each.waiting
    return labels(
        group=group,
        max_lora=facts.slots,
        running_lora_adapters=",".join(sorted(running)),
        waiting_lora_adapters=",".join(sorted(dict(queues.most_common(MOST_WAITING)))),
    )


def _loaded(group: str, facts: ResidencyFacts, counted: set[str]) -> Iterator[str]:
    """All on the device, and those in host memory whose keys are counted one by one."""
    shown = {
        (each.key, LEVELS[each.tier], each.pinned)
        for each in facts.adapters
        if each.tier == "device" or (each.tier == "host" and each.key in counted)
    }
    for key, level, pinned in sorted(shown):
        pin = str(pinned).lower()
        yield f"{_server(group, facts)},{labels(adapter_name=key, level=level, pinned=pin)}"


def _on_device(facts: ResidencyFacts) -> list[str]:
    return [each.key for each in facts.adapters if each.tier == "device"]


def _server(group: str, facts: ResidencyFacts) -> str:
    return labels(group=group, model_name=facts.base_key)
