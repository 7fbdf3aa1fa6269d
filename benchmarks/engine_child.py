"""The child side of `engines.py`: one vLLM engine that answers JSON lines, one at a time.

`python -m benchmarks.engine_child`. The first line of stdin is the settings, each further line a
batch: {"rows": [{"prompt": [token, …], "adapter": folder or null}, …], "tokens": n}. Each is
answered by one line on stdout; whatever else prints goes to stderr. Ends when stdin ends.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

MAX_NUM_SEQS = 16
MAX_BATCHED_TOKENS = 4096
MAX_MODEL_LEN = 1024
KV_CACHE_BYTES = 2**30


Message = dict[str, Any]


def main() -> None:
    answer_lines(lambda settings: Engine(settings).generate)


class Engine:
    """`vllm.LLM` as a program would use it; greedy, and every answer of its full length."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from vllm import LLM

        self._ids: dict[str, int] = {}
        self._llm = LLM(settings["model"], **engine_arguments(settings))

    def generate(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The answers in tokens, and the seconds that `LLM.generate` took for all of them."""
        from vllm import SamplingParams

        prompts = [{"prompt_token_ids": row["prompt"]} for row in batch["rows"]]
        adapters = [self._request(row["adapter"]) for row in batch["rows"]]
        sampling = SamplingParams(
            temperature=0, max_tokens=batch["tokens"], ignore_eos=True, detokenize=False
        )
        began = time.perf_counter()
        done = self._llm.generate(prompts, sampling, lora_request=adapters, use_tqdm=False)
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "tokens": [list(each.outputs[0].token_ids) for each in done]}

    def _request(self, folder: str | None) -> Any:
        from vllm.lora.request import LoRARequest

        if folder is None:
            return None
        number = self._ids.setdefault(folder, len(self._ids) + 1)
        return LoRARequest(f"adapter-{number}", number, folder)


def engine_arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `vllm.LLM`: the same for every target but for LoRA itself."""
    arguments: dict[str, Any] = {
        "dtype": "bfloat16",
        "max_num_seqs": MAX_NUM_SEQS,
        "max_num_batched_tokens": MAX_BATCHED_TOKENS,
        "max_model_len": MAX_MODEL_LEN,
        "kv_cache_memory_bytes": KV_CACHE_BYTES,
        "enable_prefix_caching": False,
        "disable_log_stats": True,
        "seed": 0,
        "enforce_eager": settings["eager"],
    }
    if settings["slots"]:
        arguments |= {
            "enable_lora": True,
            "max_loras": settings["slots"],
            "max_lora_rank": settings["slot_rank"],
        }
    return arguments


def answer_lines(start: Callable[[Message], Callable[[Message], Message]]) -> None:
    """Start with the settings in stdin's first line, then answer each further one by what started."""
    answers = private_stdout()
    answer = start(json.loads(sys.stdin.readline()))
    say(answers, {"ready": True})
    for line in sys.stdin:
        say(answers, answer(json.loads(line)))


def private_stdout() -> TextIO:
    """Keep stdout for answers: vLLM logs there, and its children inherit it."""
    sys.stdout.flush()
    private = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return private


def say(answers: TextIO, message: Message) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
