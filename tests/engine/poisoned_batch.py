"""Answers of a base and of good adapters before, while and after poisoned adapters are used.

A program of its own, so that each check has an engine of its own:
`python poisoned_batch.py OUT BASE SCHEDULER DTYPE FOLDER GOOD...` makes poisoned copies of the first
good adapter in FOLDER, and writes JSON: {"before": answers, poison: {"during": answers, "after":
answers, "reasons": why each answer of the poisoned adapter ended}, …}. An answer is [key, length of the
prompt, tokens, log-probabilities].
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

POISONS = {"nan": float("nan"), "infinite": float("inf"), "overflowing": 1e30}
"""What every weight of such an adapter is."""
LENGTHS = (5, 40, 125)
"""Tokens of a prompt. A block has 128: the last grows into a second one."""
BLOCKS = 16
"""Few, so that the blocks of one request are soon another's."""
BYTES_OF_A_BLOCK = 30 * 128 * 3 * 2 * 64  # layers, tokens, heads, keys and values, head size


def main(out: str, base: str, scheduler: str, dtype: str, folder: str, *good: str) -> None:
    from vllm import LLM
    from vllm.lora.request import LoRARequest

    llm = LLM(
        base,
        dtype=dtype,
        scheduler_cls=scheduler,
        enable_lora=True,
        max_loras=len(good) + 1,  # poisoned adapters take turns in one slot
        max_lora_rank=16,
        max_model_len=512,
        kv_cache_memory_bytes=BLOCKS * BYTES_OF_A_BLOCK * (4 if dtype == "float32" else 2),
        max_num_batched_tokens=256,
        max_num_seqs=32,
        enforce_eager=True,
        disable_log_stats=True,
    )
    poisons = [poisoned_copy(Path(good[0]), Path(folder, name)) for name in POISONS]
    loras = [
        LoRARequest(Path(each).name, number, str(each))
        for number, each in enumerate([*good, *poisons], start=1)
    ]
    healthy, poisoned = [None, *loras[: len(good)]], loras[len(good) :]
    found: dict[str, Any] = {"before": ask(llm, good_jobs(healthy))}
    for poison in poisoned:
        during = ask(llm, [*poisoned_jobs(poison), *good_jobs(healthy)])
        found[poison.lora_name] = {
            "during": [each for each in during if each[0] != poison.lora_name],
            "after": ask(llm, good_jobs(healthy)),
            "reasons": [each[-1] for each in during if each[0] == poison.lora_name],
        }
    Path(out).write_text(json.dumps(found))


def poisoned_copy(good: Path, folder: Path) -> Path:
    """The adapter with the same weights by name and shape, in fp32, all of them poison."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(good / "adapter_model.safetensors")
    value = POISONS[folder.name]
    shutil.copytree(good, folder)
    poison = {name: torch.full(each.shape, value) for name, each in weights.items()}
    save_file(poison, folder / "adapter_model.safetensors")
    return folder


def good_jobs(loras: list[Any]) -> list[Any]:
    """Greedy, all lengths of prompt for each of `loras`: [(prompt, sampling, lora)]."""
    from vllm import SamplingParams

    greedy = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, logprobs=3)
    return [(prompt(length), greedy, lora) for lora in loras for length in LENGTHS]


def poisoned_jobs(lora: Any) -> list[Any]:
    """In every way in which a sampler looks at logits."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    ways: list[dict[str, Any]] = [
        {"temperature": 0, "logprobs": 3, "ignore_eos": True},
        {"temperature": 1, "top_p": 0.9, "top_k": 40, "min_p": 0.1},
        {"temperature": 1, "repetition_penalty": 1.3, "presence_penalty": 1, "min_tokens": 9},
        {"temperature": 0, "prompt_logprobs": 2, "logit_bias": {5: 3.0}},
        {"temperature": 1, "n": 2},
        {"temperature": 0, "structured_outputs": StructuredOutputsParams(choice=["yes", "no"])},
    ]
    return [
        (prompt(length, first=3000 + 10 * n), SamplingParams(max_tokens=20, **way), lora)
        for n, way in enumerate(ways)
        for length in (30, 300)
    ]


def prompt(length: int, first: int = 1000) -> dict[str, list[int]]:
    return {"prompt_token_ids": list(range(first, first + length))}


def ask(llm: Any, jobs: list[Any]) -> list[Any]:
    """All jobs at once: [key, length of the prompt, tokens, log-probabilities, finish reason]."""
    prompts, sampling, loras = (list(each) for each in zip(*jobs, strict=True))
    answers = llm.generate(prompts, sampling, lora_request=loras, use_tqdm=False)
    return [
        [
            lora.lora_name if lora else "base",
            len(answer.prompt_token_ids),
            list(one.token_ids),
            [sorted((token, p.logprob) for token, p in of.items()) for of in one.logprobs or []],
            one.finish_reason,
        ]
        for answer, lora in zip(answers, loras, strict=True)
        for one in answer.outputs
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])
