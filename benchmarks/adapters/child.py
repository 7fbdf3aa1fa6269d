"""One vLLM engine that plays traffic: AsyncLLM in a process of its own.

`python -m benchmarks.adapters.child`. The first line of stdin is the settings. Each further line is a
session: {"asks": [{"at", "after", "prompt", "adapter", "folder", "tokens"}, …], "until": seconds or null}.
It is answered by one line: {"outcomes": [{"sent", "times", "tokens", "error"}, …], "loads": …, "ended":
seconds, "dead": why or ""}. An engine that dies is an answer too. Ends when stdin ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.engine_child import engine_arguments, private_stdout, say

COUNTER = "benchmarks.adapters.load_counter.LoadCounter"
GIVEN_UP = "not answered when the session ended"
CALL_SECONDS = 10


async def main() -> None:
    answers = private_stdout()
    engine = start_engine(json.loads(sys.stdin.readline()))
    player = Player(engine)
    say(answers, {"ready": True})
    while line := await asyncio.to_thread(sys.stdin.readline):
        say(answers, await player.play(json.loads(line)))
    engine.shutdown()


def start_engine(settings: dict[str, Any]) -> Any:
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_engine_args(AsyncEngineArgs(**stream_arguments(settings)))


@dataclass
class Course:
    """One ask on its way; `over` is set when it is answered, failed or given up."""

    sent: float | None = None
    times: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    error: str = GIVEN_UP
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def told(self) -> dict[str, Any]:
        return {"sent": self.sent, "times": self.times, "tokens": self.tokens, "error": self.error}


class Player:
    """Greedy answers of exactly the length asked for, token by token."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._sent = 0

    async def play(self, session: dict[str, Any]) -> dict[str, Any]:
        """Every ask at its time; after `until` seconds what is left is aborted."""
        before = await self.loads()
        began = time.perf_counter()
        courses = [Course() for _ in session["asks"]]
        tasks = [
            asyncio.create_task(self._ask(ask, courses, number, began))
            for number, ask in enumerate(session["asks"])
        ]
        await asyncio.wait(tasks, timeout=session["until"])
        ended = time.perf_counter() - began
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        after = await self.loads()
        return {
            "outcomes": [course.told() for course in courses],
            "loads": {name: after[name] - before.get(name, 0) for name in after},
            "ended": ended,
            "dead": repr(self._engine.dead_error) if self._engine.errored else "",
        }

    async def _ask(
        self, ask: dict[str, Any], courses: list[Course], number: int, began: float
    ) -> None:
        course = courses[number]
        if ask["after"] is not None:
            await courses[ask["after"]].over.wait()
        await asyncio.sleep(began + ask["at"] - time.perf_counter())
        course.sent = time.perf_counter() - began
        try:
            await self.stream(ask, course, began)
        except Exception as failed:  # noqa: BLE001  # whatever vLLM raises is this ask's outcome
            course.error = f"{type(failed).__name__}: {failed}"
        finally:
            course.over.set()

    async def stream(self, ask: dict[str, Any], course: Course, began: float) -> None:
        """Fill the course as tokens come."""
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest
        from vllm.sampling_params import RequestOutputKind

        number, self._sent = ask["adapter"], self._sent + 1
        stream = self._engine.generate(
            {"prompt_token_ids": ask["prompt"]},
            SamplingParams(
                temperature=0,
                max_tokens=ask["tokens"],
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
            ),
            request_id=str(self._sent),
            lora_request=None
            if number is None
            else LoRARequest(f"adapter-{number}", number + 1, ask["folder"]),
        )
        async for output in stream:
            now = time.perf_counter() - began
            answer = output.outputs[0]
            course.tokens += answer.token_ids
            course.times += [now] * len(answer.token_ids)
            if output.finished:
                whole = len(course.tokens) == ask["tokens"]
                course.error = "" if whole else f"{answer.finish_reason}: {answer.stop_reason}"

    async def loads(self) -> dict[str, int]:
        """Counts since the start; nothing from an engine that does not answer any more."""
        if self._engine.errored:
            return {}
        try:
            calls = self._engine.collective_rpc("count_loads", timeout=CALL_SECONDS)
            counts: dict[str, int] = (await calls)[0]
        except Exception as failed:  # noqa: BLE001  # it died: the session tells
            print("count_loads:", failed, file=sys.stderr)
            return {}
        return counts


def stream_arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `vllm.AsyncEngineArgs`: those of the other benchmarks, and what the variant adds."""
    arguments = engine_arguments(settings) | {
        "model": settings["model"],
        "worker_extension_cls": COUNTER,
    }
    if settings["scheduler"]:
        arguments["scheduler_cls"] = settings["scheduler"]
    if settings["max_cpu_loras"]:
        arguments["max_cpu_loras"] = settings["max_cpu_loras"]
    if settings["additional"]:
        arguments["additional_config"] = settings["additional"]
    return arguments


if __name__ == "__main__":
    asyncio.run(main())
