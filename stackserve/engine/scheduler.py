"""vLLM's scheduler with a queue for each adapter, fair shares, and adapters that come and go.

vLLM's own loop decides what a step computes; what it takes its next request from is ours. Named as
`scheduler_cls`; without LoRA it is fair among nobody and moves nothing.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from stackserve.engine import compat_adapters as compat
from stackserve.engine.adapter_host import AdapterHost, MemoryHost, StageFailed, WorkerHost
from stackserve.engine.adapter_slots import slots_of_worker
from stackserve.engine.fairness import FairShares
from stackserve.engine.kv_hygiene import CleanBlocks
from stackserve.engine.queues import AdapterQueues, Batch, adapter_of
from stackserve.engine.residency import BASE, Residency
from stackserve.engine.scheduling_options import SchedulingOptions
from stackserve.engine.slot_policy import PolicySettings
from stackserve.engine.tiers import Work
from stackserve.meters import AdapterMeters
from stackserve.protocol import key_of


@dataclass(slots=True)
class _Timing:
    """Moments of one request, on the scheduler's clock."""

    arrived: float
    admitted: bool = False
    last_tokens: float | None = None


class AdapterScheduler(CleanBlocks, AsyncScheduler):  # type: ignore[misc]  # vllm is untyped here
    """Requests run when their adapter is on the device; nobody waits for one whose adapter is not.

    `host` and `clock` are vLLM's worker processes and the monotonic clock unless given.
    """

    def __init__(
        self,
        *args: Any,
        host: AdapterHost | None = None,
        clock: Any = time.monotonic,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        config = self.vllm_config
        _check_pipeline(config)
        options = SchedulingOptions.from_config(config.additional_config)
        slots = config.lora_config.max_loras if config.lora_config else 0
        self.meters = AdapterMeters()
        self.shares = FairShares()
        self.residency = Residency(
            slots,
            host or _host_of(config),
            self.meters,
            PolicySettings(
                options.starvation_seconds,
                options.min_residency_seconds,
                options.adapters_per_batch,
            ),
            host_bytes=options.host_bytes,
            stagers=options.stagers,
        )
        self._clock = clock
        self.now = clock()
        self.base_key = compat.served_name(config)
        self._batch = Batch(options.adapters_per_batch)
        self.waiting = self._queues()
        self.kv_holding_waiting = self._queues()
        self._timings: dict[str, _Timing] = {}
        self._failed: list[Request] = []

    def _queues(self) -> AdapterQueues:
        by_priority = self.policy == SchedulingPolicy.PRIORITY
        return AdapterQueues(
            by_priority, self.residency, self.shares, self._batch, lambda: self.now, self.key_of
        )

    def key_of(self, request: Request) -> str:
        """The inference key of a request, which is its tenant too."""
        if request.lora_request is None:
            return self.base_key
        return key_of(request.lora_request.lora_name)

    def add_request(self, request: Request) -> None:
        if request.request_id not in self.requests and not self._welcome(request):
            return
        super().add_request(request)

    def _welcome(self, request: Request) -> bool:
        """Count a new request in; False when it has failed already."""
        self.tick()
        key = self.key_of(request)
        self.meters.arrived(key)
        self.shares.arrived(key)
        self._timings[request.request_id] = _Timing(self.now)
        if request.lora_request is None:
            return True
        lora = request.lora_request
        try:
            compat.check_request(lora)
            hit = self.residency.arrived(lora.lora_int_id, lora.lora_name, lora, self.now)
        except ValueError as error:
            self.requests[request.request_id] = request
            self._fail([request], str(error))
            return False
        (self.meters.hit if hit else self.meters.deferred)(key)
        return True

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        self.move_adapters()
        return super().schedule(throttle_prefills)

    def tick(self) -> None:
        """Look at the clock."""
        self.now = self._clock()

    def move_adapters(self) -> None:
        """Let adapters come and go, now; those that cannot be read take their requests with them."""
        self.tick()
        work = self._work()
        for failure in self.residency.advance(self.now, work):
            self._fail_adapter(failure)
        self._batch.begin(work)
        self.waiting.step_begins()
        self.kv_holding_waiting.step_begins()

    def _work(self) -> Mapping[int, Work]:
        """What runs of each adapter."""
        running: dict[int, int] = defaultdict(int)
        remaining: dict[int, int] = defaultdict(int)
        for request in self.running:
            adapter_id = adapter_of(request)
            if adapter_id == BASE:
                continue
            left = request.num_prompt_tokens + request.max_tokens - request.num_computed_tokens
            running[adapter_id] += 1
            remaining[adapter_id] = max(remaining[adapter_id], left)
        return {each: Work(running[each], remaining[each]) for each in running}

    def _fail_adapter(self, failure: StageFailed) -> None:
        queues = (self.waiting, self.kv_holding_waiting)
        requests = [each for queue in queues for each in queue.of_adapter(failure.id)]
        self._fail(requests, failure.reason)

    def _fail(self, requests: Iterable[Request], reason: str) -> None:
        """End requests with `reason`; their callers hear of it with the outputs of this step."""
        ids = [each.request_id for each in requests]
        for request in self.finish_requests(ids, RequestStatus.FINISHED_ERROR):
            request.stop_reason = compat.FAILED + reason
            self._failed.append(request)

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        self.tick()
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(
            scheduler_output, model_runner_output
        )
        failed, self._failed = self._failed, []
        for request in failed:
            of_client = outputs.setdefault(request.client_index, EngineCoreOutputs())
            of_client.outputs.append(compat.failure_output(request))
        return outputs

    def _update_request_with_output(
        self, request: Request, new_token_ids: list[int], is_stale: bool = False
    ) -> tuple[list[int], bool]:
        kept, stopped = super()._update_request_with_output(request, new_token_ids, is_stale)
        timing = self._timings.get(request.request_id)
        if kept and timing is not None:
            key = self.key_of(request)
            self.shares.generated(key, len(kept))
            first = timing.last_tokens is None
            since = timing.arrived if timing.last_tokens is None else timing.last_tokens
            seconds, timing.last_tokens = self.now - since, self.now
            self.meters.generated(
                key,
                len(kept),
                ttft=seconds if first else None,
                gap=None if first else seconds,
            )
        return kept, stopped

    def _update_after_schedule(self, scheduler_output: SchedulerOutput) -> None:
        super()._update_after_schedule(scheduler_output)
        for new in scheduler_output.scheduled_new_reqs:
            timing = self._timings[new.req_id]
            if not timing.admitted:
                timing.admitted = True
                request = self.requests[new.req_id]
                queued = self.now - timing.arrived
                self.meters.admitted(self.key_of(request), queued, request.num_prompt_tokens)

    def _free_request(self, request: Request, delay_free_blocks: bool = False) -> Any:
        if self._timings.pop(request.request_id, None) is not None:
            key = self.key_of(request)
            self.shares.finished(key)
            self.meters.finished(key, compat.outcome_of(request))
        return super()._free_request(request, delay_free_blocks)

    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> None:
        compat.uncache_uncomputed(self, request)
        super()._preempt_request(request, *args, **kwargs)

    def _has_slot(self, request: Request) -> bool:
        adapter_id = adapter_of(request)
        return adapter_id == BASE or adapter_id in self.residency.slots

    def make_stats(self, *args: Any, **kwargs: Any) -> Any:
        stats = super().make_stats(*args, **kwargs)
        if stats is not None:
            without_slot = self.waiting.without_slot + self.kv_holding_waiting.without_slot
            without_slot -= sum(1 for each in self.deferred_waiting if not self._has_slot(each))
            stats.num_waiting_reqs -= without_slot
            stats.num_skipped_waiting_reqs += without_slot
        return stats


def _host_of(config: Any) -> AdapterHost:
    """The engine's worker processes; without LoRA there is nothing to hold."""
    if config.lora_config is None:
        return MemoryHost()
    return WorkerHost(compat.rpc_of(config), slots_of_worker)


def _check_pipeline(config: Any) -> None:
    """ValueError where several steps are under way and vLLM would not have its asynchronous scheduler."""
    pipeline = config.parallel_config.pipeline_parallel_size > 1
    if not config.scheduler_config.async_scheduling and (pipeline or config.speculative_config):
        raise ValueError(
            "pipeline parallelism and speculative decoding need asynchronous scheduling here; "
            "leave out async_scheduling=False, or what turns it off"
        )
