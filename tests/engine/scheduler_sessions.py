"""Checks of sessions: requests whose prompts come in parts, while the client listens."""

from __future__ import annotations

from tests.engine.scheduler_cases import Start, check


@check()
def a_session_goes_on_where_it_was(start: Start) -> None:
    for adapter in (None, "a"):
        h = start()
        h.add("session", adapter, prompt=10, max_tokens=4, session=True)
        h.run()
        assert len(h.outputs["session"]) == 4
        assert not h.scheduler.has_unfinished_requests()
        assert h.free_blocks < h.settings.blocks
        h.add("session", adapter, prompt=range(50, 55), max_tokens=3, session=True)
        h.run()
        assert len(h.outputs["session"]) == 7
        assert h.cached("session") == [0, 13], "all but the last token, which vLLM drops"
        assert h.parts("session") == [10, 1, 1, 1, 5, 1, 1]
        h.add("session", adapter, prompt=1)
        h.assert_empty()


@check()
def a_session_takes_the_parts_that_came_early_in_their_order(start: Start) -> None:
    h = start()
    for i in range(3):
        h.add("session", "a", prompt=range(50 * i, 50 * i + 5), max_tokens=3, session=True)
    h.add("session", "a", prompt=1)
    h.assert_empty()
    assert len(h.outputs["session"]) == 9
    assert h.cached("session") == [0, 7, 14]


@check()
def a_session_that_waits_for_input_leaves_its_slot_to_others(start: Start) -> None:
    h = start(slots=1, seats=4)
    h.add("session", "a", prompt=10, max_tokens=4, session=True)
    h.run()
    h.add("b", "b", max_tokens=8)
    h.run_until(lambda: "b" in h.starts)
    h.add("session", "a", prompt=range(50, 55), max_tokens=3, session=True)
    h.run()
    assert len(h.outputs["session"]) == 7
    assert h.cached("session") == [0, 13]
    h.add("session", "a", prompt=1)
    h.assert_empty()
    h.assert_answered("b")


@check()
def an_aborted_session_leaves_nothing(start: Start) -> None:
    h = start()
    h.add("waits", "a", session=True)
    h.run()
    h.add("runs", "a", max_tokens=20, session=True)
    h.step()
    h.abort("waits", "runs")
    h.assert_empty()


@check()
def a_session_that_waits_for_input_keeps_its_seat_and_its_blocks(start: Start) -> None:
    h = start(seats=1)
    h.add("session", "a", prompt=10, max_tokens=4, session=True)
    h.run()
    h.add("other", "a")
    h.run(5)
    assert "other" not in h.starts
    h.add("session", "a", prompt=3, max_tokens=2, session=True)
    h.run_until(lambda: len(h.outputs["session"]) == 6)
    h.add("session", "a", prompt=1)
    h.assert_empty()
    assert h.starts == ["session", "session", "other"]
    assert h.cached("session") == [0, 13]
    h.assert_answered("other")


@check()
def a_session_goes_on_though_new_requests_are_paused(start: Start) -> None:
    h = start()
    h.add("session", "a", prompt=10, max_tokens=4, session=True)
    h.run()
    h.pause(running_too=False)
    h.add("new", "a")
    h.add("session", "a", prompt=3, max_tokens=3, session=True)
    assert h.scheduler.get_num_unfinished_requests() == 1
    h.run()
    assert len(h.outputs["session"]) == 7
    assert "new" not in h.starts
    h.resume()
    h.add("session", "a", prompt=1)
    h.assert_empty()
    h.assert_answered("new")
