"""The list of checks of schedulers, and what each is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.engine.scheduler_harness import Harness

Start = Callable[..., "Harness"]
"""Makes a harness around a new scheduler; takes the fields of its `Settings`."""


@dataclass(frozen=True)
class Check:
    run: Callable[[Start], None]
    in_flight: tuple[int, ...]
    """How far scheduling runs ahead of outputs, each in turn."""
    beyond_vllm: bool


CHECKS: dict[str, Check] = {}


def check(
    *, in_flight: tuple[int, ...] = (1, 2), beyond_vllm: bool = False
) -> Callable[[Callable[[Start], None]], Callable[[Start], None]]:
    """Put a check on the list; one `beyond_vllm` is of what vLLM's own scheduler does not do."""

    def add(run: Callable[[Start], None]) -> Callable[[Start], None]:
        CHECKS[run.__name__] = Check(run, in_flight, beyond_vllm)
        return run

    return add


def two_that_do_not_fit(start: Start, **settings: Any) -> Harness:
    """`first` and `last` of one adapter have grown to need more blocks than there are."""
    h = start(blocks=10, **settings)
    h.warm("a")
    h.add("first", "a", prompt=16, max_tokens=16, priority=5)
    h.add("last", "a", prompt=16, max_tokens=16)
    h.run_until(lambda: bool(h.preempted))
    return h
