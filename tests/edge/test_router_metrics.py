"""Residency as routers in front of several servers read it."""

from __future__ import annotations

from stackserve.edge.router_metrics import MOST_WAITING, router_metrics
from stackserve.meters import AdapterMeters
from stackserve.protocol import AdapterFacts, AdaptersSnapshot, ResidencyFacts
from tests.edge.prometheus import Metrics

NOW = 1_700_000_000.25


def snapshot(*adapters: AdapterFacts, slots: int = 8, base: str = "base") -> AdaptersSnapshot:
    return AdapterMeters().snapshot(ResidencyFacts(slots, 0, 0, adapters, base))


def info(*adapters: AdapterFacts) -> dict[str, str]:
    """What the one series of vLLM's metric says."""
    shown = Metrics(router_metrics({"g": snapshot(*adapters)}, NOW))
    (labels,) = shown.labels("vllm:lora_requests_info")
    return labels


def test_the_value_is_the_time_and_there_is_one_series_for_each_group() -> None:
    engines = {"g": snapshot(AdapterFacts("a", "device")), "h": snapshot(slots=4, base="other")}
    shown = Metrics(router_metrics(engines, NOW))
    values = [v for (name, _), v in shown.samples.items() if name == "vllm:lora_requests_info"]
    assert values == [NOW, NOW]
    assert shown.kinds["vllm:lora_requests_info"] == "gauge"
    labels = sorted(shown.labels("vllm:lora_requests_info"), key=lambda each: each["group"])
    assert [each["max_lora"] for each in labels] == ["8", "4"]


def test_an_idle_adapter_on_the_device_is_running() -> None:
    assert info(AdapterFacts("b", "device"), AdapterFacts("a", "device", running=1)) == {
        "group": "g",
        "max_lora": "8",
        "running_lora_adapters": "a,b",
        "waiting_lora_adapters": "",
    }


def test_an_adapter_waits_when_its_requests_do_and_it_is_not_on_the_device() -> None:
    labels = info(
        AdapterFacts("on", "device", waiting=1),
        AdapterFacts("off", "host", waiting=1),
        AdapterFacts("coming", "staging", waiting=1),
        AdapterFacts("idle", "host"),
    )
    assert labels["running_lora_adapters"] == "on"
    assert labels["waiting_lora_adapters"] == "coming,off"


def test_one_that_drains_is_not_ready_to_serve() -> None:
    drains = AdapterFacts("a", "device", running=1, waiting=2, draining=True)
    labels = info(drains, AdapterFacts("b", "device", running=1, draining=True))
    assert labels["running_lora_adapters"] == ""
    assert labels["waiting_lora_adapters"] == "a"


def test_two_versions_of_a_key_are_one_name_and_never_both_running_and_waiting() -> None:
    labels = info(AdapterFacts("a", "device", running=1), AdapterFacts("a", "host", waiting=3))
    assert labels["running_lora_adapters"] == "a"
    assert labels["waiting_lora_adapters"] == ""


def test_the_longest_queues_are_named_when_very_many_wait() -> None:
    queues = [AdapterFacts(f"k{n:04}", "host", waiting=n) for n in range(1, 2001)]
    named = info(*queues)["waiting_lora_adapters"].split(",")
    assert named == [f"k{n:04}" for n in range(2001 - MOST_WAITING, 2001)]


def test_loaded_adapters_are_named_by_level_as_vllm_will() -> None:
    engine = snapshot(
        AdapterFacts("a", "device", pinned=True),
        AdapterFacts("a", "device", pinned=True, draining=True),
        AdapterFacts("b", "host"),
        AdapterFacts("c", "staging"),
        slots=4,
    )
    shown = Metrics(router_metrics({"g": engine}, NOW))
    server = {"group": "g", "model_name": "base"}
    name = "vllm:lora_adapter_loaded"
    assert len(shown.labels(name)) == 2
    assert shown(name, adapter_name="a", level="gpu", pinned="true", **server) == 1
    assert shown(name, adapter_name="b", level="cpu", pinned="false", **server) == 1
    assert shown("vllm:num_gpu_loaded_lora_adapters", **server) == 2
    assert shown("vllm:max_gpu_lora_adapters", **server) == 4


def test_adapters_in_host_memory_are_named_as_far_as_keys_are_counted_one_by_one() -> None:
    host = tuple(AdapterFacts(f"k{n}", "host") for n in range(5))
    device = AdapterFacts("k9", "device")
    engine = AdapterMeters(most_keys=3).snapshot(ResidencyFacts(8, 0, 0, (*host, device)))
    shown = Metrics(router_metrics({"g": engine}, NOW))
    names = {labels["adapter_name"] for labels in shown.labels("vllm:lora_adapter_loaded")}
    assert names == {"k0", "k1", "k9"}
