"""Greedy answers of base and adapter rows, alone and in one mixed batch, from plain `vllm.LLM`.

A program of its own, so that a test can run it with the plug-in and without:
`python mixed_batch.py OUT BASE ADAPTER...` writes JSON: [{prompt, adapter, alone, mixed}, …] in tokens.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

PROMPTS = ("The capital of France is", "one two three four " * 150)
TOKENS = 12


def main(out: str, base: str, *adapters: str) -> None:
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    llm = LLM(
        base,
        dtype="bfloat16",  # rounds coarsely, so the order of any sum shows
        enable_lora=True,
        max_loras=4,
        max_lora_rank=16,
        max_model_len=1024,
        kv_cache_memory_bytes=2**29,
        max_num_batched_tokens=256,
        enable_prefix_caching=False,
        disable_log_stats=True,
    )
    chosen = [None, *(LoRARequest(Path(a).name, n, a) for n, a in enumerate(adapters, start=1))]
    jobs = [(prompt, adapter) for prompt in PROMPTS for adapter in chosen]
    sampling = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)

    def tokens(batch: list[tuple[str, LoRARequest | None]]) -> list[list[int]]:
        prompts, requests = zip(*batch, strict=True)
        answers = llm.generate(list(prompts), sampling, lora_request=list(requests), use_tqdm=False)
        return [list(answer.outputs[0].token_ids) for answer in answers]

    alone = [tokens([job])[0] for job in jobs]
    mixed = tokens(jobs)
    rows = [
        {"prompt": p, "adapter": a and a.lora_name, "alone": one, "mixed": many}
        for (p, a), one, many in zip(jobs, alone, mixed, strict=True)
    ]
    Path(out).write_text(json.dumps(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
