"""Which requests are computed next, and which together: in simulated time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stackserve.runtimes.batching import Job, Lines
from stackserve.runtimes.protocol import Batching


def lines(*, max_rows: int = 4, max_delay: float = 0.0, models: int = 1) -> Lines[str]:
    made: Lines[str] = Lines()
    for model in range(models):
        made.open(model, Batching(max_rows, max_delay))
    return made


def job(
    what: str, *, model: int = 0, rows: int = 1, alike: str | None = "", at: float = 0
) -> Job[str]:
    return Job(what, model, rows, alike, at)


def taken(made: Lines[str], now: float = 0) -> list[str]:
    return [each.what for each in made.take(now).batch]


def test_a_request_that_is_alone_does_not_wait() -> None:
    made = lines(max_delay=1)
    made.put(job("a"))
    assert taken(made) == ["a"]


def test_requests_that_wait_together_go_together_up_to_the_most_rows() -> None:
    made = lines()
    for what, rows in (("a", 2), ("b", 1), ("c", 2), ("d", 1)):
        made.put(job(what, rows=rows))
    assert taken(made) == ["a", "b", "d"]
    assert taken(made) == ["c"]
    assert taken(made) == []


def test_a_request_with_more_rows_than_a_batch_may_have_goes_alone() -> None:
    made = lines()
    made.put(job("a", rows=9))
    made.put(job("b"))
    assert [taken(made), taken(made)] == [["a"], ["b"]]


def test_requests_that_are_not_alike_go_apart() -> None:
    made = lines()
    for what, alike in (("a", "x"), ("b", "y"), ("c", "x"), ("d", None)):
        made.put(job(what, alike=alike))
    assert [taken(made) for _ in range(3)] == [["a", "c"], ["b"], ["d"]]


def test_the_first_of_a_batch_waits_for_others_no_longer_than_the_delay() -> None:
    made = lines(max_delay=0.5)
    for what in ("a", "b"):
        made.put(job(what, at=1.0))
    assert made.take(1.2).again == 1.5
    assert taken(made, 1.5) == ["a", "b"]


def test_a_full_batch_does_not_wait() -> None:
    made = lines(max_delay=0.5)
    for what in "abcd":
        made.put(job(what))
    assert taken(made) == list("abcd")


def test_a_request_waits_for_others_while_one_of_its_model_is_computed() -> None:
    made = lines(max_delay=0.5)
    made.put(job("a"))
    assert taken(made) == ["a"]
    made.put(job("b"))
    assert made.take(0.1).again == 0.5
    made.done(0)
    assert taken(made, 0.1) == ["b"]


def test_models_take_turns() -> None:
    made = lines(max_rows=1, models=2)
    for what in ("a1", "a2", "a3"):
        made.put(job(what))
    made.put(job("b1", model=1))
    assert [taken(made)[0] for _ in range(4)] == ["a1", "b1", "a2", "a3"]


def test_a_model_that_waits_for_more_keeps_no_other_one_waiting() -> None:
    made = lines(max_delay=5, models=2)
    for what in ("a", "b"):
        made.put(job(what))
    made.put(job("c", model=1))
    assert taken(made) == ["c"]


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 6), st.sampled_from(["x", "y", None])),
        max_size=40,
    ),
    st.integers(1, 8),
)
def test_every_request_is_computed_once_and_those_together_are_alike(
    wanted: list[tuple[int, int, str | None]], max_rows: int
) -> None:
    made = lines(max_rows=max_rows, models=3)
    for number, (model, rows, alike) in enumerate(wanted):
        made.put(job(str(number), model=model, rows=rows, alike=alike))
    seen: list[str] = []
    while batch := made.take(0).batch:
        seen += [each.what for each in batch]
        assert len({(each.model, each.alike) for each in batch}) == 1
        assert len(batch) == 1 or batch[0].alike is not None
        assert len(batch) == 1 or sum(each.rows for each in batch) <= max_rows
        made.done(batch[0].model)
    assert sorted(seen, key=int) == [str(number) for number in range(len(wanted))]
