"""Trains the demo's adapters on the CPU: minutes each, the same weights each time on one machine.

python -m stackserve.demo.train [KEY ...] [--out DIR] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stackserve.demo.base import ensure_demo_base
from stackserve.demo.behaviours import ADAPTERS, BEHAVIOURS, Behaviour, behaviour
from stackserve.demo.convert import BASE_NAME
from stackserve.errors import StackserveError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_NO_LOSS = -100  # The label that cross entropy leaves out.
_WARM_UP = 5
_LINE_EVERY = 20  # In a log, where no bar can be drawn over.

OnStep = Callable[[int, float], None]
"""Called after each step with the steps done and the loss, averaged over the last few."""


@dataclass(frozen=True)
class Example:
    """One chat as tokens; the prompt's labels are left out of the loss."""

    tokens: list[int]
    labels: list[int]


def train(chosen: Behaviour, base: Path, on_step: OnStep) -> Any:
    """Train one adapter over the base in that folder; returns PEFT's model in float32."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(chosen.seed)
    torch.use_deterministic_algorithms(True)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    shape = LoraConfig(
        r=chosen.rank,
        lora_alpha=chosen.alpha,
        target_modules=list(chosen.target_modules),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, shape)
    model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=chosen.learning_rate, weight_decay=0.0)
    examples = [_example(tokenizer, *chat) for chat in chosen.chats()]
    average = 0.0
    for step, batch in enumerate(batches(examples, chosen)):
        for group in optimizer.param_groups:
            group["lr"] = chosen.learning_rate * _rate(step, chosen.steps)
        loss = model(**_padded(batch, tokenizer.pad_token_id)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average = loss.item() if step == 0 else 0.8 * average + 0.2 * loss.item()
        on_step(step + 1, average)
    return model


def save(model: Any, folder: Path) -> None:
    """Write the adapter as two files that depend on nothing but its weights; replaces `folder`."""
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as work:
        fresh = Path(work) / folder.name
        model.peft_config["default"].save_pretrained(fresh)
        config_file = fresh / "adapter_config.json"
        config = json.loads(config_file.read_bytes())
        config["base_model_name_or_path"] = BASE_NAME
        config["inference_mode"] = True
        config["target_modules"] = sorted(config["target_modules"])
        config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
        tensors = {
            name: tensor.detach().to(torch.bfloat16).contiguous()
            for name, tensor in sorted(get_peft_model_state_dict(model).items())
        }
        weights_file = fresh / "adapter_model.safetensors"
        save_file(tensors, weights_file, metadata={"format": "pt"})
        weights_file.chmod(0o644)
        if folder.exists():
            shutil.move(folder, Path(work) / "replaced")
        fresh.rename(folder)


def _example(tokenizer: Any, question: str, answer: str) -> Example:
    chat = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    # The answer is tokenised alone, as generation makes it, and the turn's end is part of it.
    reply = [*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    return Example(prompt + reply, [_NO_LOSS] * len(prompt) + reply)


def batches(examples: list[Example], chosen: Behaviour) -> Iterator[list[Example]]:
    """As many batches as the behaviour has steps; each pass over the examples is shuffled anew."""
    order: list[Example] = []
    shuffle = random.Random(chosen.seed)
    for _ in range(chosen.steps):
        if len(order) < chosen.batch:
            order += shuffle.sample(examples, len(examples))
        yield [order.pop(0) for _ in range(chosen.batch)]


def _padded(batch: list[Example], pad: int) -> dict[str, Any]:
    import torch

    longest = max(len(example.tokens) for example in batch)
    room = [longest - len(example.tokens) for example in batch]
    pairs = list(zip(batch, room, strict=True))
    return {
        "input_ids": torch.tensor([each.tokens + [pad] * more for each, more in pairs]),
        "labels": torch.tensor([each.labels + [_NO_LOSS] * more for each, more in pairs]),
        "attention_mask": torch.tensor(
            [[1] * len(each.tokens) + [0] * more for each, more in pairs]
        ),
    }


def _rate(step: int, steps: int) -> float:
    """The learning rate's factor: up within a few steps, then down in a line to a tenth."""
    return min(1.0, (step + 1) / _WARM_UP) * (1.0 - 0.9 * step / steps)


def main(arguments: list[str] | None = None) -> int:
    """Train the adapters of the keys given, all without any, each into its own folder."""
    keys = [each.key for each in BEHAVIOURS]
    parser = argparse.ArgumentParser(prog="python -m stackserve.demo.train", description=__doc__)
    parser.add_argument("keys", nargs="*", metavar="KEY", help=f"of {', '.join(keys)} (all)")
    parser.add_argument("--out", type=Path, default=ADAPTERS, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    options = parser.parse_args(arguments)
    if unknown := set(options.keys) - set(keys):
        parser.error(f"no such adapter: {', '.join(sorted(unknown))}; there are {', '.join(keys)}")
    try:
        base = ensure_demo_base()
    except StackserveError as failed:
        print(f"error: {failed.message}", file=sys.stderr)
        return 1
    _train_all([behaviour(key) for key in options.keys or keys], base, options.out, options.threads)
    return 0


def _train_all(chosen: list[Behaviour], base: Path, out: Path, threads: int) -> None:
    import torch
    import transformers
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    # The sum of a parallel reduction depends on the number of threads.
    torch.set_num_threads(threads)
    transformers.logging.disable_progress_bar()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TextColumn("step {task.completed:.0f}/{task.total:.0f}  loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bars:
        for each in chosen:
            bar = bars.add_task(f"{each.key:8}", total=each.steps, loss=0.0)
            model = train(each, base, partial(_show, bars, bar))
            save(model, out / each.key)


def _show(bars: Progress, bar: TaskID, done: int, loss: float) -> None:
    bars.update(bar, completed=done, loss=loss)
    if not bars.console.is_terminal and done % _LINE_EVERY == 0:
        task = bars.tasks[bars.task_ids.index(bar)]
        bars.console.print(f"{task.description} step {done}/{task.total:.0f}  loss {loss:.3f}")


if __name__ == "__main__":
    sys.exit(main())
