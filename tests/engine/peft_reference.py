"""What Hugging Face PEFT answers in fp32: the yardstick of exactness.

`python peft_reference.py BASE JOBS.json OUT.npz`: each job is {name, adapter (a folder, null, or folders
with their weights), prompt (token ids)}; OUT holds, for each, `name/tokens` [steps] greedy and
`name/logits` [steps, vocabulary].
"""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 8


def main(base: str, jobs_file: str, out: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    jobs = json.loads(Path(jobs_file).read_text())
    arrays: dict[str, Any] = {}
    with torch.inference_mode():
        for adapter, group in groupby(jobs, key=lambda job: job["adapter"]):
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            if adapter:
                model = _with_adapters(
                    model, adapter if isinstance(adapter, dict) else {adapter: 1}
                )
            model = model.float().eval()
            for job in group:
                answer = model.generate(
                    input_ids=torch.tensor([job["prompt"]]),
                    attention_mask=torch.ones(1, len(job["prompt"]), dtype=torch.long),
                    max_new_tokens=STEPS,
                    min_new_tokens=STEPS,
                    do_sample=False,
                    output_logits=True,
                    return_dict_in_generate=True,
                )
                arrays[f"{job['name']}/tokens"] = answer.sequences[0, len(job["prompt"]) :].numpy()
                arrays[f"{job['name']}/logits"] = torch.cat(answer.logits).numpy()
    np.savez(out, **arrays)


def _with_adapters(model: Any, weights: dict[str, float]) -> Any:
    """The model with one adapter, or with several concatenated as PEFT does it."""
    from peft import PeftModel

    names = [str(number) for number in range(len(weights))]
    first, *others = weights
    model = PeftModel.from_pretrained(model, first, "0", autocast_adapter_dtype=True)
    if others:
        for name, folder in zip(names[1:], others, strict=True):
            model.load_adapter(folder, name, autocast_adapter_dtype=True)
        model.add_weighted_adapter(names, [*weights.values()], "cat", combination_type="cat")
        model.set_adapter("cat")
    return model


if __name__ == "__main__":
    main(*sys.argv[1:])
