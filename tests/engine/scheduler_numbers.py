"""Checks of what the scheduler tells of itself and of its requests."""

from __future__ import annotations

from tests.engine.scheduler_cases import Start, check, two_that_do_not_fit


@check()
def the_counts_are_of_what_runs_and_what_waits(start: Start) -> None:
    h = start(seats=2)
    h.warm("a")
    assert h.counts == (0, 0)
    assert not h.scheduler.has_unfinished_requests()
    for i in range(5):
        h.add(f"r{i}", "a", max_tokens=4)
    assert h.counts == (0, 5)
    assert h.scheduler.get_num_unfinished_requests() == 5
    h.step()
    assert h.counts == (2, 3)
    h.run_until(lambda: "r4" in h.starts)
    assert h.counts[1] == 0
    assert h.scheduler.get_num_unfinished_requests() == h.counts[0] == 1
    h.assert_empty()


@check()
def the_stats_tell_who_runs_who_waits_and_who_cannot_run_yet(start: Start) -> None:
    h = start(seats=2, slots=2)
    h.warm("a")
    for i in range(4):
        h.add(f"r{i}", "a" if i % 2 else None, prompt=8, max_tokens=6)
    h.step()
    h.step()
    assert (h.stats.num_running_reqs, h.stats.num_waiting_reqs) == (2, 2)
    assert h.stats.num_skipped_waiting_reqs == 0
    assert h.stats.kv_cache_usage > 0
    h.run()
    h.add("grammar", "a", grammar=True)
    h.add("a", "a", max_tokens=6)
    h.step()
    h.step()
    assert (h.stats.num_running_reqs, h.stats.num_waiting_reqs) == (1, 0)
    assert h.stats.num_skipped_waiting_reqs == 1
    h.abort("grammar")
    h.assert_empty()
    h.add("last", "a")
    h.run()
    assert h.stats.num_running_reqs == h.stats.num_waiting_reqs == 0
    assert h.stats.num_skipped_waiting_reqs == 0


@check()
def the_stats_count_those_without_a_slot_as_not_able_to_run(start: Start) -> None:
    h = start(slots=1)
    h.add("hot", "a", max_tokens=12)
    h.run_until(lambda: "hot" in h.starts)
    for each in "bcd":
        h.add(each, each)
    h.step()
    h.step()
    assert (h.stats.num_running_reqs, h.stats.num_waiting_reqs) == (1, 0)
    assert h.stats.num_skipped_waiting_reqs == 3
    h.abort("c")
    h.step()
    h.step()
    assert h.stats.num_skipped_waiting_reqs == 2
    h.assert_empty()


@check()
def an_answer_tells_when_its_request_waited_ran_and_was_preempted(start: Start) -> None:
    h = two_that_do_not_fit(start)
    h.assert_empty()
    assert h.events["first"] == ["QUEUED", "SCHEDULED"]
    assert h.events["last"] == ["QUEUED", "SCHEDULED", "PREEMPTED", "SCHEDULED"]
