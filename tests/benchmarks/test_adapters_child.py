"""The child sends each ask when it is due, and whatever becomes of it is its outcome."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from benchmarks.adapters.child import GIVEN_UP, Course, Player
from benchmarks.adapters.measure import Loads, Outcome, Session
from benchmarks.adapters.player import Counts, sample, session_of
from benchmarks.adapters.traffic import Ask


class HealthyEngine:
    errored = False


class FakePlayer(Player):
    """Writes two tokens to each ask, in the order in which they are sent; some of them never or not."""

    def __init__(self, never: tuple[int, ...] = (), fails: tuple[int, ...] = ()) -> None:
        super().__init__(HealthyEngine())
        self.sent: list[int] = []
        self._never, self._fails = never, fails
        self._counts = 0

    async def stream(self, ask: dict[str, Any], course: Course, began: float) -> None:
        self.sent.append(ask["number"])
        if ask["number"] in self._fails:
            raise ValueError("no such adapter")
        if ask["number"] in self._never:
            await asyncio.Event().wait()
        course.times, course.tokens, course.error = [1.0, 2.0], [7, 8], ""

    async def loads(self) -> dict[str, int]:
        self._counts += 3
        return {"reads": self._counts, "placed": 2 * self._counts}


def asks(*after: int | None) -> list[dict[str, Any]]:
    return [{"at": 0.0, "after": each, "number": n, "tokens": 2} for n, each in enumerate(after)]


async def test_an_ask_is_sent_after_the_one_it_waits_for() -> None:
    player = FakePlayer()
    reply = await player.play({"asks": asks(2, None, 1), "until": None})
    assert player.sent == [1, 2, 0]
    assert [each["error"] for each in reply["outcomes"]] == ["", "", ""]


async def test_what_is_left_when_the_session_ends_is_given_up() -> None:
    reply = await FakePlayer(never=(0,)).play({"asks": asks(None, None, 0), "until": 0.05})
    left, answered, unsent = reply["outcomes"]
    assert (left["error"], answered["error"], unsent["error"]) == (GIVEN_UP, "", GIVEN_UP)
    assert left["sent"] is not None
    assert unsent["sent"] is None


async def test_a_failure_is_the_outcome_of_its_ask_and_the_next_in_line_is_sent() -> None:
    reply = await FakePlayer(fails=(0,)).play({"asks": asks(None, 0), "until": None})
    assert [each["error"] for each in reply["outcomes"]] == ["ValueError: no such adapter", ""]


async def test_loads_are_those_of_the_session() -> None:
    reply = await FakePlayer().play({"asks": asks(None), "until": None})
    assert reply["loads"] == {"reads": 3, "placed": 6}


async def test_a_session_is_what_the_child_told() -> None:
    traffic = tuple(Ask(0.0, adapter, 0, 8, 2) for adapter in (4, 4, 5))
    reply = await FakePlayer(fails=(2,)).play({"asks": asks(None, None, None), "until": None})
    session = session_of(traffic, reply)
    assert (session.answered, session.unanswered, session.loads.placed) == (2, 1, 6)
    assert session.outcomes[0].tokens == (7, 8)
    assert sample(session, 4) == [0]  # one of each adapter that was answered


def test_counts_of_checks_add_up() -> None:
    assert Counts(4, 1, 0) + Counts(4, 0, 2) == Counts(8, 1, 2)


def answered(adapter: int, asked: int, came: int) -> tuple[Ask, Outcome]:
    return Ask(0.0, adapter, 0, 8, asked), Outcome(0.0, (1.0,) * came, (7,) * came, "")


@pytest.mark.parametrize(
    ("asked", "places"),
    [
        ([answered(0, 20, 20), answered(0, 20, 20), answered(1, 8, 8)], [0, 2]),
        ([answered(0, 900, 16), answered(1, 900, 15), answered(2, 1, 1)], [0]),
        ([answered(number, 8, 8) for number in range(8)], [0, 4]),
        ([], []),
    ],
    ids=["one of each adapter", "enough of an answer", "spread over the session", "none"],
)
def test_the_sample_that_is_checked(asked: list[tuple[Ask, Outcome]], places: list[int]) -> None:
    traffic, outcomes = (tuple(each) for each in zip(*asked, strict=True)) if asked else ((), ())
    assert sample(Session(traffic, outcomes, Loads(0, 0), 1.0), 2) == places
