"""Several things are waited for, and none of them outlives the wait."""

from __future__ import annotations

import asyncio

import pytest

from stackserve.control.tasks import first_of


class Work:
    """Waits until told what to do; says how it ended."""

    def __init__(self) -> None:
        self.told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.end = "running"

    async def do(self) -> None:
        try:
            await self.told
            self.end = "done"
        except asyncio.CancelledError:
            self.end = "cancelled"
            raise
        except OSError:
            self.end = "failed"
            raise


async def test_the_first_ends_the_others() -> None:
    quick, slow = Work(), Work()
    quick.told.set_result(None)
    await first_of(quick.do(), slow.do())
    assert (quick.end, slow.end) == ("done", "cancelled")


async def test_a_failure_of_the_first_is_raised() -> None:
    quick, slow = Work(), Work()
    quick.told.set_exception(OSError())
    with pytest.raises(OSError):  # noqa: PT011  # it has nothing to match
        await first_of(quick.do(), slow.do())
    assert slow.end == "cancelled"


async def test_a_cancellation_that_comes_with_a_failure_is_not_lost() -> None:
    one, other = Work(), Work()
    waiting = asyncio.create_task(first_of(one.do(), other.do()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    one.told.set_exception(OSError())
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert "running" not in (one.end, other.end)
