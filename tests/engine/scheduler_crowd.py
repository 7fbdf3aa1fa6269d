"""A check of everything at once, at random."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tests.engine.scheduler_cases import Start, check

if TYPE_CHECKING:
    from tests.engine.scheduler_harness import Harness

ADAPTERS = "abcdef"


class Crowd:
    """Requests of all kinds that come, go, and are interrupted, as a seed has it."""

    def __init__(self, h: Harness, rng: random.Random, count: int) -> None:
        self.h, self.rng, self.left = h, rng, count
        self.grammars: list[str] = []
        self.aborted: set[str] = set()
        self.paused = False

    def play(self) -> None:
        """Until all is over; each that was not aborted is answered then."""
        while self.left or self.paused or self.grammars or self.h.is_busy:
            self.send_some()
            self.interrupt()
            if self.h.host is not None:
                self.hold_adapters()
            self.h.step()
        self.h.assert_empty()
        self.h.assert_answered(*(each for each in self.h.requests if each not in self.aborted))

    def send_some(self) -> None:
        for _ in range(min(self.left, self.rng.choice((0, 0, 0, 1, 2)))):
            self.left -= 1
            self.send(f"r{self.left}")
        if self.grammars and self.rng.random() < 0.2:
            self.h.complete_grammar(self.grammars.pop(0))

    def send(self, request_id: str) -> None:
        """Prompts begin alike, so that there are hits, and end in a token of their own."""
        rng = self.rng
        topic = 100 * rng.randrange(3)
        max_tokens = rng.randint(1, 16)
        grammar = rng.random() < 0.1
        self.h.add(
            request_id,
            rng.choice((None, *ADAPTERS)),
            [*range(topic, topic + rng.randrange(24)), *self.h.model.prompt(request_id, 1)],
            max_tokens,
            priority=rng.randrange(3),
            stop_after=rng.randint(1, max_tokens) if rng.random() < 0.3 else None,
            grammar=grammar,
        )
        if grammar:
            self.grammars.append(request_id)

    def interrupt(self) -> None:
        if self.rng.random() < 0.03 and (alive := sorted(self.h.scheduler.requests)):
            self.abort(self.rng.choice(alive))
        if self.paused and self.rng.random() < 0.3:
            self.h.resume()
            self.paused = False
        elif self.rng.random() < 0.02:
            self.h.pause(running_too=self.rng.random() < 0.5)
            self.paused = True
        if self.rng.random() < 0.01:
            self.h.scheduler.reset_prefix_cache(reset_running_requests=True)

    def abort(self, request_id: str) -> None:
        self.h.abort(request_id)
        self.aborted.add(request_id)
        if request_id in self.grammars:
            self.grammars.remove(request_id)

    def hold_adapters(self) -> None:
        """Let some take long to be read."""
        assert self.h.host is not None
        if self.rng.random() < 0.05:
            self.h.host.held.add(self.rng.randint(1, len(ADAPTERS)))
        elif self.rng.random() < 0.1:
            self.h.host.held.clear()


@check()
def whatever_comes_is_answered_and_leaves_nothing(start: Start) -> None:
    """A thousand requests, twenty schedulers."""
    preempted = hits = 0
    for seed in range(20):
        rng = random.Random(seed)
        h = start(
            slots=rng.randint(1, 3),
            seats=rng.randint(2, 8),
            step_tokens=rng.choice((8, 16, 32)),
            blocks=rng.randint(11, 24),
            policy=rng.choice(("fcfs", "priority")),
            prefix_caching=rng.random() < 0.8,
            long_prefill=rng.choice((0, 0, 6)),
            options={
                "starvation_seconds": rng.choice((0.0, 0.1, 1.0)),
                "min_residency_seconds": rng.choice((0.0, 0.1)),
                "host_bytes": rng.randint(3, 8) << 20,
            },
        )
        Crowd(h, rng, count=50).play()
        preempted += len(h.preempted)
        hits += h.prefix_hits
    assert preempted > 100
    assert hits > 1000
