"""The line in front of the slots: first come, first served, the better priority first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stackserve.engine.waiting_line import WaitingLine


def test_they_come_in_the_order_in_which_they_joined() -> None:
    line = WaitingLine()
    for each in (3, 1, 2, 1):
        line.join(each)
    assert list(line) == [3, 1, 2]


def test_the_smaller_priority_comes_first_and_only_a_better_one_moves() -> None:
    line = WaitingLine()
    line.join(1, priority=5)
    line.join(2, priority=0)
    line.join(1, priority=9)
    assert list(line) == [2, 1]
    line.join(1, priority=-1)
    assert list(line) == [1, 2]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(-2, 2))))
def test_each_is_there_once_or_not_at_all(steps: list[tuple[bool, int, int]]) -> None:
    line = WaitingLine()
    there: set[int] = set()
    for joins, each, priority in steps:
        if joins:
            line.join(each, priority)
            there.add(each)
        else:
            line.leave(each)
            there.discard(each)
        assert sorted(line) == sorted(there)
        assert len(line) == len(there)
        assert all(each in line for each in there)
