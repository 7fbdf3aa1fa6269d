"""Checks of what vLLM's own scheduler does not do: adapters that are read, and that take turns."""

from __future__ import annotations

from tests.engine.scheduler_cases import Start, check


@check(beyond_vllm=True)
def who_waits_for_an_adapter_to_be_read_holds_nobody_up(start: Start) -> None:
    h = start(slots=2)
    h.host.held.add(1)
    h.add("slow", "slow")
    h.add("base")
    h.add("a", "a", max_tokens=9)
    h.run_until(lambda: h.reasons.keys() >= {"base", "a"})
    assert "slow" not in h.starts
    h.host.held.clear()
    h.assert_empty()
    h.assert_answered()


@check(beyond_vllm=True)
def an_adapter_that_cannot_be_read_fails_its_requests_alone(start: Start) -> None:
    h = start(slots=2)
    h.host.fail[1] = "no such file"
    for each in ("bad", "good"):
        for i in range(3):
            h.add(f"{each} {i}", each)
    h.assert_empty()
    assert [h.reasons[f"bad {i}"] for i in range(3)] == ["error"] * 3
    h.assert_answered("good 0", "good 1", "good 2")
    h.host.fail.clear()
    h.add("again", "bad")
    h.assert_empty()
    h.assert_answered("again")


@check(beyond_vllm=True)
def a_cold_adapter_behind_hot_ones_has_its_turn_within_the_bound(start: Start) -> None:
    h = start(slots=2, options={"starvation_seconds": 1.0, "min_residency_seconds": 0.2})

    def keep_hot() -> None:
        """Two adapters always run and always wait."""
        for each in "ab":
            live = [one for one in h.scheduler.requests if one.startswith(each)]
            for _ in range(6 - len(live)):
                h.add(f"{each}{len(h.requests)}", each, max_tokens=5 + len(h.requests) % 16)

    for _ in range(50):
        keep_hot()
        h.step()
    h.add("cold", "cold", max_tokens=2)
    sent = h.clock.now
    while "cold" not in h.reasons:
        keep_hot()
        h.step()
        waited = h.clock.now - sent
        assert waited < 1.0 + 2 * (0.2 + 0.3), "what runs takes 0.3 seconds at most"
    h.assert_empty()
    h.assert_answered()


@check(beyond_vllm=True)
def no_more_adapters_share_a_step_than_may_though_more_are_on_the_device(start: Start) -> None:
    h = start(slots=4, options={"adapters_per_batch": 2})
    for i in range(24):
        h.add(f"r{i}", "abcdef"[i % 6], max_tokens=1 + i % 5)
    h.add("base", max_tokens=20)
    h.assert_empty()
    h.assert_answered()
    assert max(len(step.adapters) for step in h.steps) == 2


@check(beyond_vllm=True)
def new_weights_under_an_old_name_are_refused_and_nothing_else(start: Start) -> None:
    h = start(slots=2)
    h.add("a", "a")
    h._lora("b").load_inplace = True
    h.add("in place", "b")
    h.assert_empty()
    assert h.reasons == {"a": "length", "in place": "error"}
