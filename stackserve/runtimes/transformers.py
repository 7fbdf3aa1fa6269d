"""Encoders of Hugging Face transformers: texts are classified, embedded, or have their words labelled."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from stackserve.runtimes.base import (
    Metadata,
    Model,
    ModelFiles,
    ModelRefused,
    Runtime,
    Tensors,
    TensorSpec,
)
from stackserve.runtimes.datatypes import objects
from stackserve.runtimes.encoders import Encoder, load_encoder
from stackserve.runtimes.model_file import invalid_options, read_options
from stackserve.runtimes.torch_tensors import use_threads
from stackserve.runtimes.weights import weights_memory

ROWS = 32
"""Texts that are computed together: padding makes all as long as the longest, and memory is bounded."""
LEAST = 24 << 20
"""Bytes of a tokenizer and a model without weights to speak of."""
REMOTE_CODE = ("config.json", "tokenizer_config.json", "processor_config.json")


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a member whose runtime is `transformers`."""

    task: str | None = None
    """text-classification, token-classification or embeddings (feature-extraction is the same); by
    default what the architecture in config.json is for.
    """
    normalize: bool = False
    """Embeddings get the length 1."""
    max_length: int | None = None
    """Tokens of a text, of which more are cut off; by default what the model can take."""


TASKS = {
    "text-classification": "text-classification",
    "token-classification": "token-classification",
    "embeddings": "embeddings",
    "feature-extraction": "embeddings",
}
HEADS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
}


class TransformersRuntime(Runtime):
    """Loads safetensors and configuration of a folder: no code, nothing from the network."""

    def estimate(self, files: ModelFiles) -> int:
        checked_options(files)
        return LEAST + weights_memory(weights(files.folder))

    def load(self, files: ModelFiles) -> Model:
        options = checked_options(files)
        config = read_config(files.folder)
        task = task_of(options, config, files.folder)
        use_threads(files.threads)
        return TextModel(
            task, load_encoder(files.folder, task, options.max_length), options.normalize
        )


class TextModel(Model):
    """One encoder with its tokenizer, for one task. A row's results are its own but for the last bits:
    texts are padded to the longest beside them, and other shapes sum in another order. Probabilities and
    normalised embeddings are held to 2e-6 by the tests; a BERT of 12 random layers differed by 1.2e-7.
    """

    def __init__(self, task: str, encoder: Encoder, normalize: bool) -> None:
        self.encoder = encoder
        self.task = task
        self.normalize = normalize
        self.metadata = Metadata(
            "transformers",
            (TensorSpec("text", "BYTES", (-1,)),),
            outputs_of(task, len(encoder.labels), encoder.hidden_size),
        )

    def infer(self, inputs: Tensors, wanted: Collection[str]) -> Tensors:
        results = self.compute(self.encoder.texts(inputs["text"]))
        return {name: array for name, array in results.items() if name in wanted}

    def compute(self, texts: list[str]) -> Tensors:
        parts = chunks(texts)
        if self.task == "token-classification":
            found = [row for part in parts for row in self.encoder.entities(part)]
            return {"entities": objects([json.dumps(row).encode() for row in found])}
        if self.task == "embeddings":
            blocks = [self.encoder.embeddings(part, self.normalize) for part in parts]
            empty = np.zeros((0, self.encoder.hidden_size), np.float32)
            return {"embedding": np.concatenate([empty, *blocks])}
        blocks = [self.encoder.scores(part) for part in parts]
        scores = np.concatenate([np.zeros((0, len(self.encoder.labels)), np.float32), *blocks])
        best = scores.argmax(axis=1) if len(scores) else np.zeros(0, np.int64)
        labels = [self.encoder.labels[place].encode() for place in best]
        return {
            "label": objects(labels),
            "score": scores[np.arange(len(best)), best],
            "scores": scores,
        }


def chunks(texts: list[str]) -> Iterator[list[str]]:
    return (texts[start : start + ROWS] for start in range(0, len(texts), ROWS))


def outputs_of(task: str, labels: int, hidden: int) -> tuple[TensorSpec, ...]:
    if task == "embeddings":
        return (TensorSpec("embedding", "FP32", (-1, hidden)),)
    if task == "token-classification":
        return (TensorSpec("entities", "BYTES", (-1,)),)
    return (
        TensorSpec("label", "BYTES", (-1,)),
        TensorSpec("score", "FP32", (-1,)),
        TensorSpec("scores", "FP32", (-1, labels)),
    )


def checked_options(files: ModelFiles) -> Options:
    """Raises ModelRefused."""
    options = read_options(files, Options)
    if options.task is not None and options.task not in TASKS:
        raise invalid_options(files, f"task is {options.task!r}; write one of {', '.join(TASKS)}")
    if options.max_length is not None and options.max_length < 3:
        raise invalid_options(files, f"max_length is {options.max_length}; write 3 or more tokens")
    return options


def weights(folder: Path) -> list[Path]:
    """The safetensors files of a folder. Raises ModelRefused."""
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise ModelRefused(
            "unsafe_format" if any(folder.glob("*.bin")) else "format_unknown",
            f"{folder.name} holds no .safetensors file; save the model with save_pretrained, which writes "
            "one",
        )
    return found


def read_config(folder: Path) -> dict[str, Any]:
    """config.json, if nothing in the folder asks for code that it brings or for other folders. Raises
    ModelRefused.
    """
    weights(folder)
    if (folder / "adapter_config.json").exists():
        raise ModelRefused(
            "unsupported_model",
            f"{folder.name} holds adapter_config.json, so its weights are an adapter's; merge it into its base "
            "and save that",
        )
    configs = {name: read_object(folder / name) for name in REMOTE_CODE if (folder / name).exists()}
    for name, config in configs.items():
        if "auto_map" in config:
            raise ModelRefused(
                "remote_code",
                f"{name} has an auto_map, which names Python code to run; use a model whose architecture "
                "transformers brings itself",
            )
    if "config.json" not in configs:
        raise ModelRefused(
            "description_missing",
            f"{folder.name} holds no config.json, which says of what architecture it is; save the model "
            "again with save_pretrained",
        )
    if "quantization_config" in configs["config.json"]:
        raise ModelRefused(
            "unsupported_model",
            "config.json has a quantization_config; save the model without quantization",
        )
    return configs["config.json"]


def read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelRefused(
            "model_unreadable", f"{path.name} is no JSON ({error}); save the model again"
        ) from error
    if not isinstance(value, dict):
        raise ModelRefused("model_unreadable", f"{path.name} is no object; save the model again")
    return value


def task_of(options: Options, config: dict[str, Any], folder: Path) -> str:
    """What the model is to do. Raises ModelRefused."""
    architectures = config.get("architectures") or [""]
    architecture = str(architectures[0]) if isinstance(architectures, list) else ""
    own = next((task for ending, task in HEADS.items() if architecture.endswith(ending)), None)
    task = TASKS[options.task] if options.task else own or "embeddings"
    if task != "embeddings" and task != own:
        raise ModelRefused(
            "invalid_options",
            f"{folder.name} is a {architecture or 'model without architecture'}, which has no head for {task}; "
            "use a model that was trained for it",
        )
    return task
