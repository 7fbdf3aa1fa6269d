"""Turns the GGUF file into a normal model folder, in a process of its own.

The child imports torch and transformers, so the caller does not have to; it prints one line per
step, which the parent shows.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from stackserve.demo.child import ChildFailed, run_child
from stackserve.demo.fetch import UNAVAILABLE
from stackserve.demo.progress import Report
from stackserve.errors import ConfigError

BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
END_OF_TURN = 2  # <|im_end|>

_STAGE = "Converting it to bf16 safetensors (about a minute)"
# The part of the whole that is done when a step begins, as timed on two cores.
_STEPS = {"libraries": 0.0, "tokenizer": 0.15, "weights": 0.3, "saving": 0.9}
_NEEDED = ("torch", "transformers", "gguf")


def check_libraries() -> None:
    """Refuse early, in one sentence, where the libraries that convert are not installed."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the demo's base is converted with {', '.join(_NEEDED)}; this environment lacks"
            f" {', '.join(missing)}: install stackserve[cpu] or stackserve[cuda]",
            code=UNAVAILABLE,
        )


def convert_gguf(gguf: Path, target: Path, report: Report) -> None:
    """Write the model in `gguf` to the folder `target` as bf16 safetensors and a tokenizer."""
    report(_STAGE, 0.0)
    # The package's parent goes last on the path: a checkout works, and nothing gets shadowed.
    code = "import sys; sys.path.append(sys.argv[1]); from stackserve.demo import convert;"
    code += " convert.child(sys.argv[2], sys.argv[3])"
    parent = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", code, str(parent), str(gguf), str(target)]
    env = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    try:
        run_child(
            command,
            log_dir=target.parent,
            on_tick=lambda step: report(_STAGE, _STEPS.get(step, 0.0)),
            env=env,
        )
    except ChildFailed as failed:
        raise ConfigError(
            f"the demo's base could not be converted: {failed}", code=UNAVAILABLE
        ) from failed
    report(_STAGE, 1.0)


def child(gguf: str, target: str) -> None:
    """The child's work; it prints the name of each step as the step begins."""
    _say("libraries")
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = Path(gguf).parent, Path(gguf).name
    _say("tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    _say("weights")
    # Older releases have no GgufConfig and always turn the weights back into plain ones.
    plain = {}
    if hasattr(transformers, "GgufConfig"):
        plain["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.bfloat16, **plain
    )
    _say("saving")
    _clean(model, tokenizer)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _clean(model: object, tokenizer: object) -> None:
    """Make a plain bf16 model of it: no trace of GGUF, and generation ends where a turn ends."""
    config = model.config  # type: ignore[attr-defined]
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model.hf_quantizer = None  # type: ignore[attr-defined]
    config._name_or_path = config._model_name_or_path = BASE_NAME
    generation = model.generation_config  # type: ignore[attr-defined]
    ids = (config.eos_token_id, generation.eos_token_id, tokenizer.eos_token_id)  # type: ignore[attr-defined]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")  # type: ignore[attr-defined]
    if end != END_OF_TURN or set(ids) != {END_OF_TURN}:
        raise SystemExit(f"generation would end at {ids} and not at <|im_end|> ({END_OF_TURN})")


def _say(step: str) -> None:
    print(step, flush=True)
