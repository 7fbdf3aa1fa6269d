"""Checks of KV blocks: what is reused, and what happens when they run out."""

from __future__ import annotations

from tests.engine.scheduler_cases import Start, check, two_that_do_not_fit

# Prefix caching


@check()
def an_equal_prompt_of_the_same_adapter_is_not_computed_again(start: Start) -> None:
    for adapter in (None, "a"):
        h = start()
        for each in ("first", "second"):
            h.add(each, adapter, prompt=range(100, 116))
            h.run()
        assert h.cached("first") == [0]
        assert h.cached("second") == [12], "all whole blocks but that of the last token"
        assert h.parts("second")[0] == 4
        assert (h.prefix_queries, h.prefix_hits) == (32, 12)
        h.assert_empty()


@check()
def nothing_is_reused_across_adapters_nor_between_them_and_the_base(start: Start) -> None:
    h = start(slots=2)
    for i, adapter in enumerate((None, "a", "b", "b", "a", None)):
        h.add(f"r{i}", adapter, prompt=range(100, 116))
        h.run()
    assert [h.cached(f"r{i}") for i in range(6)] == [[0], [0], [0], [12], [12], [12]]
    h.assert_empty()


@check()
def a_prompt_that_continues_an_answer_finds_it(start: Start) -> None:
    h = start()
    h.add("first", "a", prompt=range(100, 110), max_tokens=10)
    h.run()
    h.add("second", "a", prompt=[*range(100, 110), *h.outputs["first"], 7, 8])
    h.run()
    assert h.cached("second") == [16], "19 tokens were computed, four whole blocks"
    h.assert_empty()


@check()
def without_prefix_caching_nothing_is_reused(start: Start) -> None:
    h = start(prefix_caching=False)
    for each in ("first", "second"):
        h.add(each, "a", prompt=range(100, 116))
        h.run()
    assert h.cached("second") == [0]
    h.assert_empty()


@check()
def the_cache_can_be_reset_when_nothing_runs(start: Start) -> None:
    h = start()
    h.add("first", "a", prompt=range(100, 116), max_tokens=9)
    h.run_until(lambda: "first" in h.starts)
    assert not h.scheduler.reset_prefix_cache()
    h.run()
    assert h.scheduler.reset_prefix_cache()
    h.add("second", "a", prompt=range(100, 116))
    h.run()
    assert h.cached("second") == [0]
    h.assert_answered()
    h.assert_empty()


@check()
def a_reset_with_what_runs_makes_it_run_anew(start: Start) -> None:
    h = start()
    ids = [f"r{i}" for i in range(4)]
    for i, each in enumerate(ids):
        h.add(each, "a", prompt=9 + i, max_tokens=12)
    h.run_until(lambda: len(h.outputs["r3"]) > 2)
    assert h.scheduler.reset_prefix_cache(reset_running_requests=True)
    step = h.step()
    assert list(step.tokens) == ids, "they go on in their order"
    assert step.preempted == set(ids)
    assert all(h.cached(each) == [0, 0] for each in ids)
    h.assert_empty()
    h.assert_answered()


# Preemption


@check()
def when_blocks_run_out_the_last_that_started_gives_way(start: Start) -> None:
    h = two_that_do_not_fit(start)
    h.assert_empty()
    assert h.preempted == ["last"]
    assert h.starts == ["first", "last", "last"]
    h.assert_answered("first", "last")


@check()
def by_priority_the_least_urgent_gives_way(start: Start) -> None:
    h = two_that_do_not_fit(start, policy="priority")
    h.assert_empty()
    assert set(h.preempted) == {"first"}
    h.assert_answered("first", "last")


@check()
def what_was_preempted_finds_what_is_left_of_its_blocks(start: Start) -> None:
    h = two_that_do_not_fit(start)
    h.assert_empty()
    assert h.cached("last") == [0, 8]
    assert h.preempted == ["last"]


@check()
def what_was_preempted_comes_before_what_waits(start: Start) -> None:
    h = start(blocks=10, seats=2)
    h.add("first", "a", prompt=16, max_tokens=16)
    h.add("last", "a", prompt=16, max_tokens=16)
    h.add("later", "a", prompt=2, max_tokens=2)
    h.assert_empty()
    assert h.preempted == ["last"]
    assert h.starts == ["first", "last", "last", "later"]
    h.assert_answered()


@check()
def what_was_preempted_gives_every_token_once(start: Start) -> None:
    for policy in ("fcfs", "priority"):
        h = start(blocks=14, slots=2, policy=policy, prefix_caching=policy == "fcfs")
        for i in range(9):
            h.add(f"r{i}", (None, "a", "b")[i % 3], prompt=7 + i, max_tokens=20, priority=i % 4)
        h.assert_empty()
        assert h.preempted
        h.assert_answered()


@check()
def a_prompt_that_does_not_fit_waits_and_is_not_overtaken(start: Start) -> None:
    h = start(blocks=10)
    h.warm("a")
    h.add("runs", "a", prompt=20, max_tokens=6)
    h.step()
    h.add("large", "a", prompt=24)
    h.add("small", "a", prompt=2)
    h.assert_empty()
    assert h.starts == ["runs", "large", "small"]
    assert not h.preempted
    h.assert_answered("runs", "large", "small")


@check(beyond_vllm=True)
def what_gave_way_after_it_was_scheduled_is_computed_again(start: Start) -> None:
    """vLLM 0.32 leaves in its cache what such a request would have computed in that step."""
    h = start(blocks=7, policy="priority", step_tokens=12, long_prefill=6)
    h.add("low", prompt=21, max_tokens=3, priority=9)
    h.step()
    h.add("high", prompt=4, max_tokens=3)
    h.assert_empty()
    assert h.preempted == ["low"]
    assert h.cached("low") == [0, 16]
    h.assert_answered()
