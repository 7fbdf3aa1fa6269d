"""Checks of how requests end, wait and are interrupted."""

from __future__ import annotations

from tests.engine.scheduler_cases import Start, check, two_that_do_not_fit

# How answers end


@check()
def an_answer_ends_at_its_length(start: Start) -> None:
    h = start()
    h.add("base", max_tokens=5)
    h.add("a", "a", max_tokens=1)
    h.assert_empty()
    assert h.reasons == {"base": "length", "a": "length"}
    h.assert_answered()


@check()
def an_answer_ends_at_a_stop_token(start: Start) -> None:
    h = start()
    h.add("base", max_tokens=9, stop_after=3)
    h.add("a", "a", max_tokens=9, stop_after=1)
    h.assert_empty()
    assert h.reasons == {"base": "stop", "a": "stop"}
    assert len(h.outputs["base"]) == 3
    h.assert_answered()


@check()
def an_answer_ends_at_the_models_length(start: Start) -> None:
    h = start(model_len=32)
    h.add("a", "a", prompt=20, max_tokens=100)
    h.assert_empty()
    assert h.reasons == {"a": "length"}
    assert len(h.outputs["a"]) == 12
    h.assert_answered()


@check()
def a_seat_and_a_slot_are_free_as_soon_as_an_answer_ends(start: Start) -> None:
    h = start(slots=1, seats=1)
    for each in "ab":
        h.add(each, each, max_tokens=3)
    h.run()
    assert h.starts == ["a", "b"]
    h.assert_answered()


# Aborts


@check()
def an_aborted_request_that_waits_leaves_nothing(start: Start) -> None:
    h = start(seats=1)
    h.warm("a")
    h.add("runs", "a", max_tokens=9)
    h.step()
    for each in ("one", "two", "three"):
        h.add(each, "a")
    h.step()
    h.abort("two")
    assert h.counts == (1, 2)
    h.assert_empty()
    assert h.starts == ["runs", "one", "three"]
    h.assert_answered("runs", "one", "three")


@check()
def an_aborted_request_that_waits_for_a_slot_leaves_nothing(start: Start) -> None:
    for policy in ("fcfs", "priority"):
        h = start(slots=1, policy=policy)
        h.add("hot", "a", max_tokens=9)
        h.run_until(lambda h=h: "hot" in h.starts)
        for each in "bcd":
            h.add(each, each)
        h.step()
        h.abort("b", "d")
        assert h.counts == (1, 1)
        h.assert_empty()
        assert h.starts == ["hot", "c"]
        h.assert_answered("hot", "c")


@check()
def an_aborted_request_that_runs_leaves_nothing(start: Start) -> None:
    h = start(step_tokens=16)
    h.add("answering", "a", max_tokens=20)
    h.run_until(lambda: len(h.parts("answering")) > 2)
    h.add("half read", "a", prompt=40)
    h.step()
    h.abort("answering", "half read")
    assert h.counts == (0, 0)
    assert h.free_blocks == h.settings.blocks
    h.add("next", "b")
    h.assert_empty()
    assert h.outputs["half read"] == []
    h.assert_answered("next")


@check()
def an_aborted_request_that_was_preempted_leaves_nothing(start: Start) -> None:
    h = two_that_do_not_fit(start)
    h.abort("last")
    assert h.counts == (1, 0)
    h.assert_empty()
    assert h.starts == ["first", "last"]
    h.assert_answered("first")


@check()
def aborting_all_leaves_nothing(start: Start) -> None:
    h = two_that_do_not_fit(start, slots=1)
    h.add("b", "b")
    h.add("grammar", grammar=True)
    h.step()
    h.abort()
    assert h.counts == (0, 0)
    assert h.free_blocks == h.settings.blocks
    h.assert_empty()
    h.add("next", "c")
    h.assert_empty()
    h.assert_answered("next")


@check()
def aborting_twice_or_what_is_unknown_does_nothing(start: Start) -> None:
    h = start()
    h.add("a", "a", max_tokens=9)
    h.add("b", "b", max_tokens=9)
    h.step()
    h.abort("a")
    h.abort("a", "unknown")
    h.assert_empty()
    h.assert_answered("b")


# Pauses


@check()
def while_paused_for_new_requests_only_those_that_run_go_on(start: Start) -> None:
    h = start()
    h.warm("a")
    h.add("runs", "a", max_tokens=6)
    h.step()
    h.pause(running_too=False)
    for each, adapter in (("base", None), ("a", "a"), ("b", "b")):
        h.add(each, adapter)
    h.run()
    assert h.starts == ["runs"]
    assert h.reasons["runs"] == "length"
    assert h.counts == (0, 3)
    assert not h.scheduler.has_unfinished_requests()
    h.resume()
    assert h.scheduler.has_unfinished_requests()
    h.assert_empty()
    h.assert_answered()


@check()
def while_paused_altogether_nothing_runs(start: Start) -> None:
    h = start()
    h.warm("a")
    h.add("runs", "a", max_tokens=6)
    h.step()
    h.pause(running_too=True)
    h.add("waits", "a")
    assert not h.scheduler.has_unfinished_requests()
    h.run()
    assert h.step().tokens == {}
    assert h.scheduler.schedule().num_scheduled_tokens == {}
    assert h.counts == (1, 1)
    h.resume()
    h.assert_empty()
    h.assert_answered()


@check()
def what_was_preempted_does_not_come_back_while_paused_for_new_requests(start: Start) -> None:
    h = two_that_do_not_fit(start)
    h.pause(running_too=False)
    h.run()
    assert h.starts == ["first", "last"]
    h.resume()
    h.assert_empty()
    h.assert_answered("first", "last")


# Structured output


@check()
def who_waits_for_a_grammar_holds_nobody_up(start: Start) -> None:
    h = start()
    h.warm("a")
    h.add("grammar", "a", grammar=True)
    h.add("behind", "a", max_tokens=3)
    h.add("base", max_tokens=3)
    assert h.step().tokens.keys() == {"behind", "base"}
    h.run_until(lambda: h.reasons.keys() >= {"behind", "base"})
    assert h.scheduler.has_unfinished_requests()
    h.run(3)
    assert "grammar" not in h.starts
    h.complete_grammar("grammar")
    h.assert_empty()
    h.assert_answered()


@check()
def requests_keep_their_places_while_their_grammars_are_made(start: Start) -> None:
    h = start(seats=2)
    h.warm("a")
    h.add("runs", "a", max_tokens=9)
    for each in ("grammar 1", "grammar 2", "plain 1", "grammar 3", "plain 2", "plain 3"):
        h.add(each, "a", max_tokens=5, grammar=each.startswith("grammar"))
    h.run(3)
    assert h.starts == ["runs", "plain 1"]
    for i in (1, 2, 3):
        h.complete_grammar(f"grammar {i}")
    h.assert_empty()
    assert h.starts[2:] == ["grammar 1", "grammar 2", "grammar 3", "plain 2", "plain 3"]
    h.assert_answered()


@check()
def a_grammar_that_cannot_be_made_fails_its_request_alone(start: Start) -> None:
    h = start()
    h.warm("a")
    h.add("wrong", "a", grammar=True)
    h.add("right", "a", max_tokens=6)
    h.step()
    h.complete_grammar("wrong", error=ValueError("no grammar"))
    h.assert_empty()
    assert h.reasons["wrong"] == "error"
    h.assert_answered("right")


@check()
def a_grammar_is_given_every_token_once(start: Start) -> None:
    h = start(blocks=12)
    h.add("grammar", "a", prompt=10, max_tokens=16, grammar=True)
    h.add("plain", "a", prompt=10, max_tokens=16)
    seen = h.complete_grammar("grammar")
    h.assert_empty()
    assert seen == h.outputs["grammar"]
    assert set(h.grammars.masked) == {"grammar"}
    h.assert_answered()


@check()
def a_token_that_its_grammar_refuses_ends_a_request_with_an_error(start: Start) -> None:
    h = start()
    h.add("grammar", "a", grammar=True)
    h.add("plain", "a")
    h.complete_grammar("grammar", accepts=False)
    h.assert_empty()
    assert h.reasons == {"grammar": "error", "plain": "length"}
    h.assert_answered("plain")


# Outputs in flight


@check(in_flight=(2,))
def a_step_is_scheduled_before_the_last_ones_tokens_are_known(start: Start) -> None:
    h = start()
    h.add("base", max_tokens=3)
    assert h.step().tokens == {"base": 4}
    assert h.step().tokens == {"base": 1}
    assert len(h.outputs["base"]) == 1
    assert h.step().tokens == {"base": 1}
    assert h.step().tokens == {}, "that all is scheduled is known though not what came of it"
    h.assert_empty()
    h.assert_answered()


@check(in_flight=(2,))
def the_late_output_of_an_aborted_request_is_nobodys(start: Start) -> None:
    h = start()
    h.add("aborted", "a", max_tokens=20)
    h.add("other", "a", max_tokens=20)
    h.run_until(lambda: len(h.outputs["aborted"]) > 2)
    h.abort("aborted")
    before = list(h.outputs["aborted"])
    h.add("next", "a", max_tokens=20)
    h.assert_empty()
    assert h.outputs["aborted"] == before
    h.assert_answered("other", "next")


@check(in_flight=(2,))
def a_preempted_request_whose_last_token_is_in_flight_is_answered(start: Start) -> None:
    finished_while_preempted = 0
    for max_tokens in range(1, 14):
        h = start(blocks=10)
        h.add("first", "a", prompt=16, max_tokens=20)
        h.add("last", "a", prompt=16, max_tokens=max_tokens)
        h.assert_empty()
        h.assert_answered()
        finished_while_preempted += h.preempted == ["last"] and h.starts == ["first", "last"]
    assert finished_while_preempted


@check(in_flight=(2,))
def what_stops_while_preempted_is_answered(start: Start) -> None:
    finished_while_preempted = 0
    for stop_after in range(1, 14):
        h = start(blocks=10)
        h.add("first", "a", prompt=16, max_tokens=20)
        h.add("last", "a", prompt=16, max_tokens=20, stop_after=stop_after)
        h.assert_empty()
        h.assert_answered()
        finished_while_preempted += h.preempted == ["last"] and h.starts == ["first", "last"]
    assert finished_while_preempted
