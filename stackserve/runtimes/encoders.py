"""A transformers encoder and its tokenizer, computing for lists of texts."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from stackserve.runtimes.base import BadInput, ModelRefused, first_line
from stackserve.runtimes.torch_tensors import array_of

CLASSES = {
    "text-classification": transformers.AutoModelForSequenceClassification,
    "token-classification": transformers.AutoModelForTokenClassification,
    "embeddings": transformers.AutoModel,
}
WEIGHTLESS = ("pooler.",)
"""What embeddings do not need of a checkpoint."""
LOADING = threading.Lock()
"""transformers replaces functions of torch while it loads a model."""
LONGEST = 512
"""Tokens, of a model that does not say how many it takes."""

FloatArray = np.ndarray[Any, np.dtype[np.float32]]


def load_encoder(folder: Path, task: str, max_length: int | None) -> Encoder:
    """Raises ModelRefused."""
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
        # The attention is named here, for a configuration could name one that is fetched from the network.
        with LOADING:
            model, loading = CLASSES[task].from_pretrained(
                folder,
                use_safetensors=True,
                attn_implementation="sdpa",
                dtype=torch.float32,
                output_loading_info=True,
                **local,
            )
    except Exception as error:  # transformers raises what it likes for damaged files
        raise ModelRefused(
            "model_unreadable",
            f"transformers {transformers.__version__} cannot read {folder.name} "
            f"({first_line(error)[:200]}); save the model and its tokenizer again with save_pretrained",
        ) from error
    check_loaded(loading, task, folder.name)
    if tokenizer.pad_token_id is None or not tokenizer.is_fast:
        raise ModelRefused(
            "unsupported_model",
            f"the tokenizer of {folder.name} has no padding token or no tokenizer.json; save a fast "
            "tokenizer with a padding token",
        )
    # Weights are mapped from their files until here: memory would be taken at the first request only, and
    # a file that is written over meanwhile would change the answers or end the process.
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return Encoder(model.eval(), tokenizer, max_length)


def check_loaded(loading: dict[str, Any], task: str, folder: str) -> None:
    """Refuse a checkpoint of which transformers has filled gaps with random numbers."""
    missing = sorted(loading["missing_keys"])
    if task == "embeddings":
        missing = [name for name in missing if not name.startswith(WEIGHTLESS)]
    if missing:
        raise ModelRefused(
            "weights_mismatch",
            f"the weights in {folder} lack {missing[0]!r} and {len(missing) - 1} more for {task}; save the "
            "whole model, or choose another task",
        )


class Encoder:
    """May be used in several threads at once."""

    def __init__(self, model: Any, tokenizer: Any, max_length: int | None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        # A fast tokenizer keeps how it pads and cuts off in itself, and panics if two threads change that.
        self.lock = threading.Lock()
        config = model.config
        most = min(tokenizer.model_max_length, positions(config))
        self.max_length = min(max_length or most, most)
        self.hidden_size: int = config.hidden_size
        self.labels = [str(config.id2label[place]) for place in range(config.num_labels)]

    def texts(self, array: Any) -> list[str]:
        """The texts of a BYTES tensor. Raises BadInput."""
        try:
            return [str(each, "utf-8") for each in array]
        except UnicodeDecodeError as error:
            raise BadInput("the tensor 'text' holds bytes that are no UTF-8") from error

    def encode(self, texts: list[str], **more: Any) -> Any:
        with self.lock:
            return self.tokenizer(
                texts,
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
                **more,
            )

    def scores(self, texts: list[str]) -> FloatArray:
        """[texts, labels]: probabilities of one label, or of each if they do not exclude each other."""
        with torch.inference_mode():
            logits = self.model(**self.encode(texts)).logits.float()
            kind = self.model.config.problem_type
            if kind == "regression":
                return array_of(logits)
            if kind == "multi_label_classification" or logits.shape[1] == 1:
                return array_of(logits.sigmoid())
            return array_of(logits.softmax(-1))

    def embeddings(self, texts: list[str], normalize: bool) -> FloatArray:
        """[texts, hidden]: the mean over each text's tokens."""
        with torch.inference_mode():
            encoded = self.encode(texts)
            states = self.model(**encoded).last_hidden_state.float()
            mask = encoded["attention_mask"].unsqueeze(-1)
            # where, not a product: what stands at padding may be anything, and 0 * inf is no number
            kept = torch.where(mask.bool(), states, 0.0)
            mean = kept.sum(1) / mask.sum(1).clamp(min=1)
            return array_of(torch.nn.functional.normalize(mean, dim=-1) if normalize else mean)

    def entities(self, texts: list[str]) -> list[list[dict[str, Any]]]:
        """Of each text the tokens whose label is not O, as the token-classification pipeline of
        transformers tells them without an aggregation.
        """
        encoded = self.encode(texts, return_offsets_mapping=True, return_special_tokens_mask=True)
        offsets = encoded.pop("offset_mapping").tolist()
        special = encoded.pop("special_tokens_mask").tolist()
        with torch.inference_mode():
            scores = array_of(self.model(**encoded).logits.float().softmax(-1))
        rows = []
        for row, text in enumerate(texts):
            best = scores[row].argmax(-1)
            rows.append(
                [
                    {
                        "entity": self.labels[label],
                        "score": round(float(scores[row, place, label]), 6),
                        "index": place,
                        "word": text[start:end],
                        "start": start,
                        "end": end,
                    }
                    for place, (label, (start, end)) in enumerate(
                        zip(best, offsets[row], strict=True)
                    )
                    if not special[row][place] and self.labels[label] != "O"
                ]
            )
        return rows


def positions(config: Any) -> int:
    """Tokens that the model has positions for; RoBERTa and its kin count them from the padding's id."""
    most = getattr(config, "max_position_embeddings", None) or LONGEST
    if config.model_type in {"roberta", "xlm-roberta", "camembert", "mpnet", "longformer"}:
        most -= (config.pad_token_id or 0) + 1
    return int(most)
