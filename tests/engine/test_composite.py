"""A composite answers what Hugging Face PEFT answers with the same adapters concatenated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stackserve.demo.behaviours import BEHAVIOURS
from tests.engine.conftest import COMPOSITES, KEYS
from tests.engine.peft_reference import STEPS
from tests.engine.server import Server
from tests.engine.test_exactness import TOLERANCE, Yardstick, answers, by_token, run_program

LENGTHS = (17, 257)


@pytest.fixture(scope="module")
def cat(demo_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Yardstick:
    """PEFT's `add_weighted_adapter(combination_type="cat")` of every composite, in fp32."""
    folder = tmp_path_factory.mktemp("cat")
    random = np.random.default_rng(1)
    prompts = {length: random.integers(100, 40_000, length).tolist() for length in LENGTHS}
    folders = {each.key: str(each.adapter) for each in BEHAVIOURS}
    jobs = [
        {
            "name": f"{key}-{length}",
            "adapter": {folders[part]: weight for part, weight in weights.items()},
            "prompt": prompts[length],
        }
        for key, weights in COMPOSITES.items()
        for length in LENGTHS
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    out = folder / "out.npz"
    run_program("peft_reference.py", str(demo_base), str(folder / "jobs.json"), str(out))
    return Yardstick(prompts, np.load(out))


async def test_composites_in_one_batch_with_their_parts_equal_pefts_cat(
    exact: Server, cat: Yardstick
) -> None:
    keys = (*KEYS, *COMPOSITES)
    found = await answers(exact, cat, LENGTHS, keys=keys, max_tokens=STEPS, logprobs=20)
    for key in COMPOSITES:
        for length in LENGTHS:
            chosen = found[key, length].logprobs
            tokens = [next(iter(by_token({name: 0.0}))) for name in chosen.tokens]
            assert tokens == cat.tokens(key, length), (key, length)
            expected = cat.logits(key, length)
            for step, top in enumerate(chosen.top_logprobs):
                for token, logit in by_token(top).items():
                    assert abs(logit - expected[step, token]) < TOLERANCE, (key, length, step)


async def test_a_composite_is_neither_the_base_nor_one_of_its_parts(
    exact: Server, cat: Yardstick
) -> None:
    """The check above can fail: another adapter's logits are far away."""
    found = await answers(exact, cat, LENGTHS[:1], max_tokens=1, logprobs=20)
    for key, weights in COMPOSITES.items():
        expected = cat.logits(key, LENGTHS[0])[0]
        for other in ("base", *weights):
            top = by_token(found[other, LENGTHS[0]].logprobs.top_logprobs[0])
            assert max(abs(logit - expected[token]) for token, logit in top.items()) > 0.1
