"""Checks of who runs when, and what a step holds."""

from __future__ import annotations

from tests.engine.scheduler_cases import Start, check

# Order, and who shares a step


@check()
def requests_of_one_adapter_start_in_the_order_in_which_they_came(start: Start) -> None:
    h = start(seats=2)
    ids = [f"r{i}" for i in range(8)]
    for i, each in enumerate(ids):
        h.add(each, "a", prompt=3 + 5 * (i % 3), max_tokens=1 + i % 4)
    h.run()
    assert h.starts == ids
    h.assert_answered()
    h.assert_empty()


@check()
def requests_without_an_adapter_start_in_the_order_in_which_they_came(start: Start) -> None:
    h = start(seats=2)
    ids = [f"r{i}" for i in range(8)]
    for i, each in enumerate(ids):
        h.add(each, prompt=3 + 5 * (i % 3), max_tokens=1 + i % 4)
    h.run()
    assert h.starts == ids
    h.assert_answered()


@check()
def the_base_and_adapters_share_a_step(start: Start) -> None:
    h = start(slots=2)
    h.warm("a", "b")
    for each, adapter in (("base", None), ("a", "a"), ("b", "b"), ("a again", "a")):
        h.add(each, adapter, max_tokens=5)
    assert h.step().tokens == {"base": 4, "a": 4, "b": 4, "a again": 4}
    while len(h.parts("base")) < 5:
        assert h.step().tokens.keys() == {"base", "a", "b", "a again"}
    h.assert_empty()
    h.assert_answered()


@check()
def who_waits_for_a_slot_holds_nobody_up(start: Start) -> None:
    h = start(slots=1)
    h.add("hot", "a", max_tokens=20)
    h.run_until(lambda: "hot" in h.starts)
    for i in range(5):
        h.add(f"cold {i}", f"cold {i}")
    h.add("base", max_tokens=3)
    h.add("a", "a", max_tokens=3)
    step = h.step()
    assert {"hot", "base", "a"} == step.tokens.keys()
    h.assert_empty()
    h.assert_answered()


@check()
def adapters_get_a_slot_in_the_order_in_which_they_came(start: Start) -> None:
    h = start(slots=1)
    h.add("hot", "a", max_tokens=8)
    h.run_until(lambda: "hot" in h.starts)
    for each in "dbc":
        h.add(each, each, max_tokens=3)
    h.run()
    assert h.starts == ["hot", "d", "b", "c"]


@check()
def more_adapters_than_slots_are_all_served(start: Start) -> None:
    h = start(slots=2, seats=4)
    for i in range(30):
        h.add(f"r{i}", f"adapter {i % 10}", prompt=2 + i % 7, max_tokens=1 + i % 5)
    h.add("base")
    h.assert_empty()
    h.assert_answered()
    assert max(len(step.adapters) for step in h.steps) == 2


@check()
def an_engine_without_adapters_is_served_too(start: Start) -> None:
    for policy in ("fcfs", "priority"):
        h = start(slots=0, seats=2, policy=policy)
        for i in range(6):
            h.add(f"r{i}", prompt=3 + i, max_tokens=3)
        h.assert_empty()
        assert h.starts == [f"r{i}" for i in range(6)]
        h.assert_answered()


# What a step may hold


@check()
def a_step_holds_as_many_tokens_and_requests_as_it_may(start: Start) -> None:
    h = start(seats=3, step_tokens=16)
    for i in range(6):
        h.add(f"r{i}", prompt=6, max_tokens=6)
    assert h.step().tokens == {"r0": 6, "r1": 6, "r2": 4}
    assert h.step().tokens == {"r0": 1, "r1": 1, "r2": 2}
    assert h.counts == (3, 3)
    h.assert_empty()
    h.assert_answered()


@check()
def a_long_prompt_is_split_and_others_go_on_beside_it(start: Start) -> None:
    h = start(step_tokens=16)
    h.warm("a")
    h.add("short", max_tokens=30)
    h.step()
    h.add("long", "a", prompt=50, max_tokens=3)
    h.run()
    assert h.parts("long") == [15, 15, 15, 5, 1, 1]
    assert all(step.tokens["short"] == 1 for step in h.steps if "long" in step.tokens)
    h.assert_empty()
    h.assert_answered()


@check()
def a_prompt_stays_whole_where_chunked_prefill_is_off(start: Start) -> None:
    h = start(chunked_prefill=False)
    h.add("first", prompt=40, max_tokens=3)
    h.add("second", prompt=40, max_tokens=3)
    assert h.step().tokens == {"first": 40}
    assert h.step().tokens == {"first": 1, "second": 40}
    h.assert_empty()
    h.assert_answered()


@check()
def of_several_long_prompts_each_has_its_threshold_of_a_step(start: Start) -> None:
    h = start(long_prefill=8)
    h.add("one", prompt=30, max_tokens=2)
    h.add("two", prompt=20, max_tokens=8)
    h.run()
    assert h.parts("one") == [8, 8, 8, 6, 1]
    assert h.parts("two")[:3] == [8, 8, 4]
    h.assert_answered()


@check()
def a_long_prompt_alone_has_the_whole_step(start: Start) -> None:
    h = start(long_prefill=8)
    h.add("one", prompt=30, max_tokens=2)
    h.run()
    assert h.parts("one") == [30, 1]


# Priorities


@check()
def the_most_urgent_starts_first_whatever_its_adapter(start: Start) -> None:
    h = start(policy="priority", seats=1, slots=2)
    h.warm("a", "b")
    h.add("running", max_tokens=3, priority=9)
    h.step()
    for i, priority in enumerate((4, 2, 6, 1, 5, 3)):
        h.add(f"p{priority}", (None, "a", "b")[i % 3], max_tokens=2, priority=priority)
    h.run()
    assert h.starts == ["running", "p1", "p2", "p3", "p4", "p5", "p6"]


@check()
def among_equally_urgent_the_first_that_came_is_first(start: Start) -> None:
    h = start(policy="priority", seats=1)
    for i, priority in enumerate((1, 0, 1, 0, 1)):
        h.add(f"r{i}", "a", max_tokens=2, priority=priority)
    h.run()
    assert h.starts == ["r1", "r3", "r0", "r2", "r4"]


@check()
def a_slot_goes_to_the_most_urgent_of_those_that_wait_for_one(start: Start) -> None:
    h = start(policy="priority", slots=1)
    h.add("hot", "a", max_tokens=8, priority=9)
    h.run_until(lambda: "hot" in h.starts)
    for each, priority in (("b", 3), ("c", 1), ("d", 2)):
        h.add(each, each, max_tokens=2, priority=priority)
    h.run()
    assert h.starts == ["hot", "c", "d", "b"]
    h.assert_answered()


@check()
def of_one_adapter_that_waits_for_a_slot_the_most_urgent_starts_first(start: Start) -> None:
    h = start(policy="priority", slots=1, seats=2)
    h.add("hot", "a", max_tokens=8)
    h.run_until(lambda: "hot" in h.starts)
    for priority in (7, 3, 5):
        h.add(f"p{priority}", "b", max_tokens=3, priority=priority)
    h.run()
    assert h.starts == ["hot", "p3", "p5", "p7"]
