"""Turns the GGUF file into a normal model folder, in a process of its own.

The child imports torch and transformers, so the caller does not have to; it prints one line per
step, which the parent shows.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

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

_BPE = {
    "unk_token": None,
    "continuing_subword_prefix": "",
    "end_of_word_suffix": "",
    "fuse_unk": False,
    "byte_fallback": False,
}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_BYTES_BACK = {**_BYTES, "add_prefix_space": True}
_TOKENIZER_CONFIG = {
    "bos_token": "<|im_start|>",
    "clean_up_tokenization_spaces": False,
    "eos_token": "<|im_end|>",
    "model_max_length": 8192,
    "pad_token": "<|im_end|>",
    "tokenizer_class": "TokenizersBackend",
    "unk_token": "<|endoftext|>",
}


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
    _clean(model)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    settle_tokenizer(Path(target))


def _clean(model: Any) -> None:
    """Make a plain bf16 model of it: no trace of GGUF, and generation ends where a turn ends."""
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model.hf_quantizer = None
    config._name_or_path = config._model_name_or_path = BASE_NAME
    if {config.eos_token_id, model.generation_config.eos_token_id} != {END_OF_TURN}:
        raise SystemExit(f"generation would not end at <|im_end|> ({END_OF_TURN})")


def settle_tokenizer(folder: Path) -> None:
    """Write the same tokenizer whatever release of transformers read it out of the GGUF file."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_bytes())
    if tokenizer["added_tokens"][END_OF_TURN]["content"] != "<|im_end|>":
        raise SystemExit(f"the token {END_OF_TURN} is not <|im_end|>")
    tokenizer["model"] |= _BPE
    tokenizer |= {"normalizer": None, "pre_tokenizer": _BYTES, "decoder": _BYTES_BACK}
    path.write_text(json.dumps(tokenizer, ensure_ascii=False, indent=2), encoding="utf-8")
    settings = json.dumps(_TOKENIZER_CONFIG, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(settings, encoding="utf-8")


def _say(step: str) -> None:
    print(step, flush=True)
