"""Tiny bases that transformers can load, and adapters of many kinds that PEFT made for them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import peft
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPTNeoConfig, LlamaConfig, PreTrainedTokenizerFast

VOCABULARY = 300
EOS = 256
TARGETS = ["q_proj", "v_proj"]
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def write_llama(folder: Path, **changes: Any) -> Path:
    """Random weights, large enough that every adapter and every prompt has an answer of its own."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16384,
        attention_bias=True, bos_token_id=None, eos_token_id=EOS, initializer_range=0.3,
        **changes,
    )  # fmt: skip
    return _write(folder, config)


def write_gpt_neo(folder: Path) -> Path:
    """An architecture that vLLM 0.32 does not have."""
    config = GPTNeoConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=48,
        attention_types=[[["global", "local"], 1]], max_position_embeddings=256, window_size=16,
        bos_token_id=None, eos_token_id=EOS, initializer_range=0.3,
    )  # fmt: skip
    return _write(folder, config)


def _write(folder: Path, config: Any) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """A token a byte, and one that ends an answer."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)} | {"<end>": EOS}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def lora(**changes: Any) -> Any:
    return peft.LoraConfig(**{"r": 4, "target_modules": TARGETS, **changes})


KINDS: dict[str, Any] = {
    "lora": lora(),
    "rank-patterns": lora(use_rslora=True, rank_pattern={"q_proj": 2}, alpha_pattern={"q_proj": 7}),
    "expression": lora(target_modules=r".*\.(q|k)_proj"),
    "all-linear": lora(target_modules="all-linear"),
    "dora": lora(use_dora=True),
    "lora-bias": lora(lora_bias=True),
    "all-biases": lora(bias="all"),
    "modules-to-save": lora(modules_to_save=["lm_head"]),
    "embeddings": lora(target_modules=["embed_tokens"]),
    "single-tokens": lora(trainable_token_indices=[104, 105]),
    "loha": peft.LoHaConfig(r=4, target_modules=TARGETS),
    "lokr": peft.LoKrConfig(r=4, target_modules=TARGETS),
    "ia3": peft.IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
    "oft": peft.OFTConfig(r=4, oft_block_size=0, target_modules=TARGETS),
    "hra": peft.HRAConfig(r=4, target_modules=TARGETS),
    "layer-norms": peft.LNTuningConfig(target_modules=["norm", "input_layernorm"]),
}


def make_adapter(base: Path, folder: Path, config: Any, seed: int = 1) -> Path:
    """An adapter as if trained: what can be trained is far from where it began."""
    torch.manual_seed(seed)
    config.task_type = "CAUSAL_LM"
    model = peft.get_peft_model(load(base), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.4)
    with warnings.catch_warnings():  # PEFT takes the biases of LoRA for broken matrices
        warnings.simplefilter("ignore")
        model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    return folder


def with_peft(base: Path, adapter: Path | None) -> Any:
    """What PEFT itself makes of an adapter: the yardstick."""
    model = load(base)
    return model if adapter is None else peft.PeftModel.from_pretrained(model, adapter).eval()


def greedy(model: Any, prompt: list[int], tokens: int) -> list[int]:
    """What `generate` answers, alone."""
    answer = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return list(map(int, answer[0, len(prompt) :]))
