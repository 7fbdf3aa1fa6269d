"""What one `schedule()` costs: the real scheduler class with requests, and no model behind it.

`python -m benchmarks.adapters.schedule_child`. The first line of stdin is the settings, each further
line a case: {"blocked": n, "adapters": m, "steps": k}. It is answered by one line: {"seconds": [of each
schedule()], "add_seconds": of all add_request() together, "scheduled": [rows of each step], "running":
n}. Ends when stdin ends.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from benchmarks.adapters.child import stream_arguments
from benchmarks.engine_child import answer_lines

BLOCK_TOKENS = 16
BLOCKS = 100_000
PROMPT_TOKENS = 16
UNTIL_RUNNING = 100
"""Steps within which an adapter for each slot has to run."""
SETTLE_STEPS = 5


def main() -> None:
    answer_lines(lambda settings: Desk(settings).measure)


class Desk:
    """Makes schedulers as an engine would, and feeds each tokens as a model would."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from vllm.engine.arg_utils import EngineArgs

        arguments = stream_arguments(settings) | {"async_scheduling": False}
        self._config = EngineArgs(**arguments).create_engine_config()
        self._config.cache_config.num_gpu_blocks = BLOCKS
        self._slots = settings["slots"]

    def measure(self, case: dict[str, int]) -> dict[str, Any]:
        """One request runs for each slot, `blocked` ones wait for others, over `adapters` of them."""
        scheduler = self._scheduler()
        for slot in range(self._slots):
            scheduler.add_request(self._request(f"running-{slot}", slot))
        for _ in range(UNTIL_RUNNING):
            if len(scheduler.running) == self._slots:
                break
            self._step(scheduler)
        blocked = [
            self._request(f"blocked-{number}", self._slots + number % case["adapters"])
            for number in range(case["blocked"])
        ]
        began = time.perf_counter()
        for request in blocked:
            scheduler.add_request(request)
        added = time.perf_counter() - began
        for _ in range(SETTLE_STEPS):
            self._step(scheduler)
        steps = [self._step(scheduler) for _ in range(case["steps"])]
        return {
            "seconds": [seconds for seconds, _ in steps],
            "scheduled": [rows for _, rows in steps],
            "add_seconds": added,
            "running": len(scheduler.running),
        }

    def _step(self, scheduler: Any) -> tuple[float, int]:
        """Schedules once, timed, and gives each row that is done with its prompt a token."""
        from vllm.v1.outputs import ModelRunnerOutput

        began = time.perf_counter()
        output = scheduler.schedule()
        seconds = time.perf_counter() - began
        rows = list(output.num_scheduled_tokens)
        answer = ModelRunnerOutput(
            req_ids=rows,
            req_id_to_index={name: place for place, name in enumerate(rows)},
            sampled_token_ids=[[1] for _ in rows],
        )
        scheduler.update_from_output(output, answer)
        return seconds, len(rows)

    def _scheduler(self) -> Any:
        from vllm.v1.structured_output import StructuredOutputManager

        scheduler_class = self._config.scheduler_config.get_scheduler_cls()
        return scheduler_class(
            vllm_config=self._config,
            kv_cache_config=_kv_cache(),
            structured_output_manager=StructuredOutputManager(self._config),
            block_size=BLOCK_TOKENS,
            hash_block_size=BLOCK_TOKENS,
            log_stats=False,
            **dict(_hosts(scheduler_class)),
        )

    def _request(self, name: str, adapter: int) -> Any:
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest
        from vllm.v1.request import Request

        return Request(
            request_id=name,
            prompt_token_ids=[1] * PROMPT_TOKENS,
            sampling_params=SamplingParams(max_tokens=900, ignore_eos=True),
            pooling_params=None,
            lora_request=LoRARequest(f"adapter-{adapter}", adapter + 1, f"/adapters/{adapter}"),
        )


def _hosts(scheduler_class: Any) -> Iterator[tuple[str, Any]]:
    """Ours asks workers for weights; here nothing holds any. vLLM's has no such argument."""
    if scheduler_class.__module__.startswith("stackserve."):
        from stackserve.engine.adapter_host import MemoryHost

        yield "host", MemoryHost()


def _kv_cache() -> Any:
    import torch
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

    layer = FullAttentionSpec(
        block_size=BLOCK_TOKENS, num_kv_heads=1, head_size=1, dtype=torch.float32
    )
    return KVCacheConfig(
        num_blocks=BLOCKS,
        kv_cache_tensors=[],
        kv_cache_groups=[KVCacheGroupSpec(["layer"], layer)],
    )


if __name__ == "__main__":
    main()
