"""A model whose KV cache is remembered: finds a request that reads what is not its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request

STOP = 2
"""The token that ends an answer."""


@dataclass(frozen=True)
class Work:
    """A request's part of a step: its positions from `start` to before `end`."""

    request_id: str
    start: int
    end: int
    begins: bool
    """It did not run before, or was preempted since, or is a session that goes on."""


class Memory:
    """What lies in each place of each block: of which adapter, after which tokens."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._cells: dict[tuple[int, int], int] = {}
        self.tables: dict[str, list[int]] = {}
        """Blocks of the requests that the scheduler has not yet said are finished."""

    def works(self, scheduled: Any) -> list[Work]:
        """The parts of a step, by vLLM's SchedulerOutput. Its blocks are the requests' from now on."""
        for request_id in scheduled.finished_req_ids:
            self.tables.pop(request_id, None)
        begins, goes_on = {}, {}
        for new in scheduled.scheduled_new_reqs:
            self.tables[new.req_id] = list(new.block_ids[0])
            begins[new.req_id] = new.num_computed_tokens
        known = scheduled.scheduled_cached_reqs
        for request_id, blocks, start in zip(
            known.req_ids, known.new_block_ids, known.num_computed_tokens, strict=True
        ):
            if request_id in known.resumed_req_ids:
                self.tables[request_id] = list(blocks[0])
                begins[request_id] = start
            else:
                self.tables[request_id] += blocks[0] if blocks else []
                goes_on[request_id] = start
        works = []
        for request_id, count in scheduled.num_scheduled_tokens.items():
            start = begins[request_id] if request_id in begins else goes_on[request_id]
            works.append(Work(request_id, start, start + count, request_id in begins))
        return works

    def write(self, work: Work, adapter: str, tokens: Sequence[int]) -> None:
        """Fill a request's positions of this step, after a look at all those before them."""
        table = self.tables[work.request_id]
        assert len(table) * self._block_size >= work.end, f"{work} has too few blocks"
        content = hash(adapter)
        for position, token in enumerate(tokens):
            content = hash((content, token))
            cell = table[position // self._block_size], position % self._block_size
            if position >= work.start:
                self._cells[cell] = content
            else:
                ours = self._cells.get(cell) == content
                assert ours, f"{work} reads what is not its own: {position}"


class Model:
    """Its token depends on the request and the position alone, so that none can be lost unseen.

    A step is played when it is scheduled: a device, too, does them in that order.
    """

    def __init__(self, block_size: int) -> None:
        self.memory = Memory(block_size)
        self.computed: dict[str, int] = {}
        """How many tokens of a request there are, with those that were found in the cache."""
        self.cached: dict[str, list[int]] = defaultdict(list)
        """Tokens that were found in the cache, each time that a request began to run."""
        self.starts: list[str] = []
        """Requests in the order in which they, or what was preempted of them, began to run."""
        self._numbers: dict[str, int] = {}
        self._stops: dict[str, int] = {}

    def prompt(self, request_id: str, length: int) -> list[int]:
        """Tokens that are no other request's."""
        first = 1000 * self._number(request_id)
        return list(range(first, first + length))

    def token(self, request_id: str, position: int) -> int:
        """What is sampled for a position."""
        if self._stops.get(request_id) == position:
            return STOP
        return 1000 * self._number(request_id) + 500 + position

    def stop_at(self, request_id: str, position: int) -> None:
        self._stops[request_id] = position

    def answer(self, request: Request, model_len: int) -> list[int]:
        """All of it; for a request that is no session."""
        length = request.num_prompt_tokens
        end = min(length + request.max_tokens, model_len)
        end = min(end, self._stops.get(request.request_id, end) + 1)
        return [self.token(request.request_id, i) for i in range(length, end)]

    def execute(self, scheduled: Any, requests: dict[str, Request]) -> ModelRunnerOutput:
        """Play vLLM's SchedulerOutput, which has just been made."""
        works = self.memory.works(scheduled)
        ids = [work.request_id for work in works]
        sampled = [self._play(work, requests[work.request_id]) for work in works]
        return ModelRunnerOutput(ids, {each: i for i, each in enumerate(ids)}, sampled)

    def _play(self, work: Work, request: Request) -> list[int]:
        if work.begins:
            self.starts.append(work.request_id)
            self.cached[work.request_id].append(work.start)
        else:
            assert work.start == self.computed[work.request_id], f"{work} leaves tokens out"
        self.computed[work.request_id] = work.end
        # What is in flight is not known to the scheduler yet.
        ahead = range(request.num_tokens, work.end)
        tokens = [*request.all_token_ids, *(self.token(work.request_id, i) for i in ahead)]
        adapter = request.lora_request.lora_name if request.lora_request else ""
        self.memory.write(work, adapter, tokens[: work.end])
        return [] if request.is_prefill_chunk else [self.token(work.request_id, work.end)]

    def _number(self, request_id: str) -> int:
        return self._numbers.setdefault(request_id, len(self._numbers) + 1)
