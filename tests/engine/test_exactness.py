"""A request's answer is its own: whoever shares its batch, and equal to Hugging Face PEFT's."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stackserve.demo.behaviours import BEHAVIOURS
from tests.engine.conftest import KEYS
from tests.engine.peft_reference import STEPS
from tests.engine.server import ALL_CORES, Server

LENGTHS = (1, 2, 17, 256, 257, 2000)
"""Around the chunk of 256 tokens, and the shortest and longest that are promised."""
ECHOED = (1, 2, 17, 257)
"""Log-probabilities of whole prompts are slow to write out; these cross a chunk too."""
TOLERANCE = 1e-3
HERE = Path(__file__).parent


def run_program(name: str, *arguments: str, **environment: str) -> None:
    """Run one of the programs beside this file, on all cores."""
    done = subprocess.run(
        [sys.executable, str(HERE / name), *arguments],
        env=os.environ | ALL_CORES | {"HF_HUB_OFFLINE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def mixed_batch(base: Path, out: Path, **environment: str) -> list[dict[str, Any]]:
    adapters = [str(each.adapter) for each in BEHAVIOURS]
    run_program("mixed_batch.py", str(out), str(base), *adapters, **environment)
    rows: list[dict[str, Any]] = json.loads(out.read_text())
    return rows


def test_plain_vllm_with_the_plugin_answers_every_row_as_if_alone(
    demo_base: Path, tmp_path: Path
) -> None:
    rows = mixed_batch(demo_base, tmp_path / "rows.json")
    assert {row["adapter"] for row in rows} == {None, *KEYS[1:]}
    assert [row["mixed"] for row in rows] == [row["alone"] for row in rows]


def test_plain_vllm_without_the_plugin_changes_base_answers_in_a_mixed_batch(
    demo_base: Path, tmp_path: Path
) -> None:
    """The check above can fail: this is what it looks like when it does."""
    rows = mixed_batch(demo_base, tmp_path / "rows.json", VLLM_PLUGINS="")
    of_the_base = [row for row in rows if row["adapter"] is None]
    assert [row["mixed"] for row in of_the_base] != [row["alone"] for row in of_the_base]


@dataclass(frozen=True)
class Yardstick:
    """PEFT's greedy tokens and logits of every (key, prompt length)."""

    prompts: dict[int, list[int]]
    arrays: Any

    def tokens(self, key: str, length: int) -> list[int]:
        return [int(token) for token in self.arrays[f"{key}-{length}/tokens"]]

    def logits(self, key: str, length: int) -> np.ndarray:
        logits: np.ndarray = self.arrays[f"{key}-{length}/logits"]
        return logits


@pytest.fixture(scope="module")
def peft(demo_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Yardstick:
    folder = tmp_path_factory.mktemp("peft")
    random = np.random.default_rng(0)
    prompts = {length: random.integers(100, 40_000, length).tolist() for length in LENGTHS}
    folders = {each.key: str(each.adapter) for each in BEHAVIOURS}
    jobs = [
        {"name": f"{key}-{length}", "adapter": folders.get(key), "prompt": prompts[length]}
        for key in KEYS
        for length in LENGTHS
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    out = folder / "out.npz"
    run_program("peft_reference.py", str(demo_base), str(folder / "jobs.json"), str(out))
    return Yardstick(prompts, np.load(out))


async def answers(
    server: Server,
    peft: Yardstick,
    lengths: tuple[int, ...] = LENGTHS,
    keys: tuple[str, ...] = KEYS,
    **more: Any,
) -> dict[tuple[str, int], Any]:
    """Ask for every (key, length) at once; the choices with their log-probability fields."""
    async with server.client() as client:

        async def ask(key: str, length: int) -> Any:
            answer = await client.completions.create(
                model=key,
                prompt=peft.prompts[length],
                temperature=0,
                extra_body={"return_tokens_as_token_ids": True, "ignore_eos": True},
                **more,
            )
            return answer.choices[0]

        jobs = [(key, length) for key in keys for length in lengths]
        return dict(zip(jobs, await asyncio.gather(*(ask(*job) for job in jobs)), strict=True))


def by_token(top: dict[str, float]) -> dict[int, float]:
    return {int(name.removeprefix("token_id:")): value for name, value in top.items()}


@pytest.mark.parametrize("round_", ["cold prefix cache", "warm prefix cache"])
async def test_greedy_answers_and_logits_in_one_mixed_batch_equal_those_of_peft(
    exact: Server, peft: Yardstick, round_: str
) -> None:
    found = await answers(exact, peft, max_tokens=STEPS, logprobs=20)
    worst = 0.0
    for (key, length), choice in found.items():
        tokens = [by_token({name: 0.0}) for name in choice.logprobs.tokens]
        assert [next(iter(t)) for t in tokens] == peft.tokens(key, length), (key, length)
        expected = peft.logits(key, length)
        for step, top in enumerate(choice.logprobs.top_logprobs):
            for token, logit in by_token(top).items():
                worst = max(worst, abs(logit - expected[step, token]))
    assert worst < TOLERANCE


async def test_the_logits_of_the_whole_vocabulary_equal_those_of_peft(
    exact: Server, peft: Yardstick
) -> None:
    found = await answers(exact, peft, max_tokens=1, logprobs=-1)
    for (key, length), choice in found.items():
        ours = by_token(choice.logprobs.top_logprobs[0])
        expected = peft.logits(key, length)[0]
        assert len(ours) == len(expected)
        difference = max(abs(logit - expected[token]) for token, logit in ours.items())
        assert difference < TOLERANCE, (key, length)


async def test_prompt_log_probabilities_of_an_adapter_are_its_own_in_a_mixed_batch(
    exact: Server, peft: Yardstick
) -> None:
    """vLLM asks for these with the rows of one request only, not with the rows of the batch."""
    found = await answers(exact, peft, ECHOED, max_tokens=1, echo=True, logprobs=1)
    for (key, length), choice in found.items():
        assert len(choice.logprobs.tokens) == length + 1, (key, length)
        last = by_token(choice.logprobs.top_logprobs[-1])
        token = peft.tokens(key, length)[0]
        assert abs(last[token] - peft.logits(key, length)[0, token]) < TOLERANCE
