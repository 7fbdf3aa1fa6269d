"""A real scheduler played without an engine: what it does is checked, and written down."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from tests.engine.scheduler_model import STOP, Model
from tests.engine.scheduler_setup import Clock, Grammars, Make, Settings, scheduler_arguments

STEP_SECONDS = 0.01
"""How far a step moves the clock."""
STUCK = 500
"""Steps without any progress that are no longer a wait for something."""


@dataclass(frozen=True)
class Step:
    """What one step scheduled, and who finished by the output that was taken in with it."""

    tokens: dict[str, int]
    """By request, in the scheduler's order."""
    adapters: frozenset[str]
    preempted: frozenset[str]
    """Since the step before."""
    finished: dict[str, str]
    """Request → vLLM's reason."""


class Harness:
    """Plays an engine around a scheduler; every step is checked for what must hold always.

    `base` is the folder of a model, of which only the configuration is read.
    """

    def __init__(self, make: Make, base: Path, settings: Settings) -> None:
        self.settings = settings
        self.clock = Clock()
        self.grammars = Grammars()
        arguments = scheduler_arguments(base, settings, self.grammars)
        self.scheduler, self.host = make(arguments, self.clock)
        self.model = Model(settings.block_size)
        self.requests: dict[str, Request] = {}
        self.outputs: dict[str, list[int]] = defaultdict(list)
        self.reasons: dict[str, str] = {}
        self.events: dict[str, list[str]] = defaultdict(list)
        """What the outputs told of a request's life, in vLLM's words."""
        self.steps: list[Step] = []
        self.stats: Any = None
        """vLLM's SchedulerStats of the last output."""
        self.prefix_queries = self.prefix_hits = 0
        self._in_flight: deque[tuple[Any, ModelRunnerOutput]] = deque()
        self._loras: dict[str, LoRARequest] = {}
        self._arrival = time.time()
        self._hasher = get_request_block_hasher(settings.block_size, sha256)
        self._idle = 0

    # What clients do

    def add(
        self,
        request_id: str,
        adapter: str | None = None,
        prompt: int | Sequence[int] = 4,
        max_tokens: int = 4,
        *,
        priority: int = 0,
        stop_after: int | None = None,
        grammar: bool = False,
        session: bool = False,
    ) -> None:
        """Send a request. A prompt given as a length is like no other's.

        With `stop_after` its token of that number is `STOP`; with `grammar` it waits for
        `complete_grammar`; a `session` waits for another `add` by the same id when it is answered,
        and is over when that is no session.
        """
        tokens = self.model.prompt(request_id, prompt) if isinstance(prompt, int) else prompt
        self._arrival = max(time.time(), self._arrival + 1e-5)
        request = Request(
            request_id=request_id,
            prompt_token_ids=list(tokens),
            sampling_params=SamplingParams(
                max_tokens=max_tokens,
                stop_token_ids=[STOP],
                structured_outputs=StructuredOutputsParams(regex=".*") if grammar else None,
            ),
            pooling_params=None,
            arrival_time=self._arrival,
            lora_request=self._lora(adapter) if adapter else None,
            priority=priority,
            block_hasher=self._hasher,
            resumable=session,
        )
        if grammar:
            request.structured_output_request.grammar = Future()
        if stop_after is not None:
            self.model.stop_at(request_id, len(tokens) + stop_after - 1)
        self.requests.setdefault(request_id, request)
        self.scheduler.add_request(request)

    def _lora(self, name: str) -> LoRARequest:
        new = LoRARequest(lora_name=name, lora_int_id=len(self._loras) + 1, lora_path=f"/{name}")
        return self._loras.setdefault(name, new)

    def abort(self, *request_ids: str) -> None:
        """Without ids, all."""
        self.scheduler.finish_requests(request_ids or None, RequestStatus.FINISHED_ABORTED)

    def complete_grammar(
        self, request_id: str, *, error: Exception | None = None, accepts: bool = True
    ) -> list[int]:
        """Let a grammar be ready, or fail; the tokens that it will have been given."""
        seen: list[int] = []
        waiting = self.requests[request_id].structured_output_request._grammar
        if error is not None:
            waiting.set_exception(error)
        else:
            waiting.set_result(SimpleNamespace(accept=lambda new: (seen.extend(new), accepts)[1]))
        return seen

    def pause(self, *, running_too: bool) -> None:
        state = PauseState.PAUSED_ALL if running_too else PauseState.PAUSED_NEW
        self.scheduler.set_pause_state(state)

    def resume(self) -> None:
        self.scheduler.set_pause_state(PauseState.UNPAUSED)

    # The engine's loop

    @property
    def is_busy(self) -> bool:
        """vLLM's loop would make another step."""
        return self.scheduler.has_requests() or bool(self._in_flight)

    def step(self) -> Step:
        """Schedule; take in the oldest output if there are as many in flight as may be.

        As in vLLM's EngineCore, where what must know the tokens in flight is sampled after them.
        """
        self.clock.now += STEP_SECONDS
        scheduled, deferred = None, None
        if self.scheduler.has_requests():
            scheduled = self.scheduler.schedule()
            output = self.model.execute(scheduled, self.requests)
            if scheduled.pending_structured_output_tokens and self._in_flight:
                deferred = output
            else:
                self._sample(scheduled, output)
        finished = {}
        works = scheduled is not None and scheduled.num_scheduled_tokens
        full = len(self._in_flight) >= self.settings.in_flight
        if self._in_flight and (full or deferred is not None or not works):
            finished = self._take_in_output()
        if deferred is not None:
            self._sample(scheduled, deferred)
        self.steps.append(self._step_of(scheduled, finished))
        self._check(self.steps[-1])
        return self.steps[-1]

    def run(self, steps: int | None = None) -> list[Step]:
        """So many steps, or else until nothing is left to do. The steps that were made."""
        begin = len(self.steps)
        while self.is_busy if steps is None else len(self.steps) < begin + steps:
            self.step()
        return self.steps[begin:]

    def run_until(self, reached: Callable[[], bool]) -> None:
        """Step until something is so, which must be before nothing is left to do."""
        while not reached():
            assert self.is_busy, "it did not come to that"
            self.step()

    def warm(self, *adapters: str) -> None:
        """Let adapters be known and, as far as there are slots, on the device."""
        for adapter in adapters:
            self.add(f"warm {adapter}", adapter, prompt=1, max_tokens=1)
        self.run()
        self.starts.clear()
        self.steps.clear()
        self.reasons.clear()

    def _sample(self, scheduled: Any, output: ModelRunnerOutput) -> None:
        if scheduled.num_scheduled_tokens:
            self.scheduler.get_grammar_bitmask(scheduled)
        self._in_flight.append((scheduled, output))

    def _take_in_output(self) -> dict[str, str]:
        finished = {}
        by_client = self.scheduler.update_from_output(*self._in_flight.popleft())
        for outputs in by_client.values():
            for output in outputs.outputs:
                self.outputs[output.request_id] += output.new_token_ids
                self.events[output.request_id] += [each.type.name for each in output.events or ()]
                if output.finish_reason is not None:
                    finished[output.request_id] = str(output.finish_reason)
            if outputs.scheduler_stats is not None:
                self.stats = outputs.scheduler_stats
                self.prefix_queries += self.stats.prefix_cache_stats.queries
                self.prefix_hits += self.stats.prefix_cache_stats.hits
        self.reasons |= finished
        return finished

    def _step_of(self, scheduled: Any, finished: dict[str, str]) -> Step:
        if scheduled is None:
            return Step({}, frozenset(), frozenset(), finished)
        tokens = dict(scheduled.num_scheduled_tokens)
        loras = (self.requests[each].lora_request for each in tokens)
        adapters = frozenset(each.lora_name for each in loras if each is not None)
        return Step(tokens, adapters, frozenset(scheduled.preempted_req_ids or ()), finished)

    def _check(self, step: Step) -> None:
        assert sum(step.tokens.values()) <= self.settings.step_tokens
        assert max(len(step.tokens), self.counts[0]) <= self.settings.seats
        assert len(step.adapters) <= self.settings.adapters_per_step
        if self.host is not None:
            there = self.host.slots
            assert len(there) == len(set(there.values())) <= self.settings.slots
            assert {self._loras[each].lora_int_id for each in step.adapters} <= set(there.values())
        self._idle = 0 if step.tokens or step.finished else self._idle + 1
        assert self._idle < STUCK, f"{self.counts[1]} wait and nothing runs"

    # What came of it

    @property
    def counts(self) -> tuple[int, int]:
        """Running and waiting requests, as the scheduler reports them."""
        return self.scheduler.get_request_counts()

    @property
    def free_blocks(self) -> int:
        return self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()

    @property
    def starts(self) -> list[str]:
        return self.model.starts

    @property
    def preempted(self) -> list[str]:
        """Requests in the order in which they were preempted."""
        return [each for step in self.steps for each in sorted(step.preempted)]

    def cached(self, request_id: str) -> list[int]:
        """Tokens that were found in the cache, each time that a request began to run."""
        return self.model.cached[request_id]

    def parts(self, request_id: str) -> list[int]:
        """Tokens of a request by step, in the steps in which it ran."""
        return [step.tokens[request_id] for step in self.steps if request_id in step.tokens]

    def assert_answered(self, *request_ids: str) -> None:
        """These requests, or all, have each token of their answers once, and computed no more."""
        for request_id in request_ids or self.requests:
            request = self.requests[request_id]
            answer = self.model.answer(request, self.settings.model_len)
            assert self.outputs[request_id] == answer, request_id
            due = request.num_prompt_tokens + len(answer) - 1
            # Beyond a stop, as many tokens as were in flight when it came.
            more = self.settings.in_flight - 1 if answer[-1] == STOP else 0
            assert due <= self.model.computed[request_id] <= due + more, request_id

    def assert_empty(self) -> None:
        """When all is done nothing of anything is left."""
        self.run()
        assert self.counts == (0, 0)
        assert not self.scheduler.has_unfinished_requests()
        assert not self.scheduler.requests
        assert not self.scheduler.deferred_waiting
        assert self.free_blocks == self.settings.blocks
        assert not self.model.memory.tables, "the model was not told that these are finished"
        if self.host is not None:
            self.scheduler.residency.check_integrity()
