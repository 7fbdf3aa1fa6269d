"""What a base model is made of, read from its config.json and its safetensors headers alone."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stackserve.adapters.codes import Code
from stackserve.adapters.folder import READ_FLAGS, read_whole, reading
from stackserve.adapters.safetensors_file import TensorInfo, read_header
from stackserve.adapters.strict_json import parse_object, shown
from stackserve.errors import ArtifactRejected
from stackserve.files import file_sha256

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_JSON_BYTES = 64 << 20

DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
# Packed formats do not show a Linear's shape in its tensor.
PACKED_SUFFIXES = (".qweight", ".weight_packed", ".weight.absmax", ".weight.quant_map")


@dataclass(frozen=True)
class BaseArchitecture:
    """The shapes an adapter must fit. `modules` maps a module to its weight's (out, in).

    `fingerprint` is a sha256 over config.json and the names, dtypes, shapes and file sizes of the
    weights. It is cheap, and does not see a change of the weights' values.
    """

    architecture: str
    model_type: str
    layers: int
    hidden_size: int
    vocabulary_size: int
    dtype: str
    modules: Mapping[str, tuple[int, int]]
    fingerprint: str

    @classmethod
    def from_folder(cls, path: Path) -> BaseArchitecture:
        """Read a base in Hugging Face's layout; a defect raises ArtifactRejected (`base_…`)."""
        config_bytes = _read(path, CONFIG, Code.BASE_CONFIG_INVALID)
        config = parse_object(config_bytes, name=CONFIG, code=Code.BASE_CONFIG_INVALID)
        text = config.get("text_config")
        text = text if isinstance(text, dict) else config
        headers = _read_headers(path)
        tensors = [tensor for _, _, shard in headers for tensor in shard]
        _refuse_packed(tensors)
        modules = _modules(tensors)
        if config.get("tie_word_embeddings") is True:
            modules |= _tied_head(modules)
        return cls(
            architecture=_architecture(config),
            model_type=_text(config, "model_type"),
            layers=_count(text, "num_hidden_layers", "num_layers", "n_layer", "n_layers"),
            hidden_size=_count(text, "hidden_size", "n_embd", "d_model"),
            vocabulary_size=_count(text, "vocab_size"),
            dtype=_dtype(text, tensors),
            modules=modules,
            fingerprint=_fingerprint(path, config_bytes, headers),
        )


ANSWER_FILES = (
    "chat_template.jinja",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
)
"""Files beside the weights that change what a request means or how its answer is sampled."""

Header = tuple[str, int, Sequence[TensorInfo]]  # file name, file size, tensors


def _read_headers(path: Path) -> list[Header]:
    """Headers of the single file if there is one, else of the shards which the index names."""
    if (path / SINGLE).exists():
        return [_header(path, SINGLE)]
    if not (path / INDEX).exists():
        raise ArtifactRejected(
            Code.BASE_MISSING,
            f"The base folder has neither {SINGLE} nor {INDEX}; save the base as safetensors.",
        )
    weight_map = _weight_map(path)
    headers = [_header(path, name) for name in sorted(set(weight_map.values()))]
    home: dict[str, str] = {}
    for name, _, tensors in headers:
        for tensor in tensors:
            if tensor.name in home:
                raise _bad_weights(f"{name} repeats {shown(tensor.name)} of {home[tensor.name]}")
            home[tensor.name] = name
    for tensor_name, name in weight_map.items():
        if home.get(tensor_name) != name:
            raise _bad_weights(f"{name} lacks {shown(tensor_name)}, which {INDEX} places there")
    return headers


def _weight_map(path: Path) -> dict[str, str]:
    data = _read(path, INDEX, Code.BASE_WEIGHTS_INVALID)
    index = parse_object(data, name=INDEX, code=Code.BASE_WEIGHTS_INVALID)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _bad_weights(f"{INDEX} has weight_map {shown(weight_map)} instead of a map")
    for name in weight_map.values():
        plain = isinstance(name, str) and name.isprintable() and "/" not in name
        if not plain or not name.endswith(".safetensors"):
            raise _bad_weights(f"{INDEX} names {shown(name)}, not a safetensors file beside it")
    return weight_map


def _header(path: Path, name: str) -> Header:
    with _open(path, name) as fd:
        tensors = read_header(fd, name=name, code=Code.BASE_WEIGHTS_INVALID)
        return name, os.fstat(fd).st_size, tensors


@contextmanager
def _open(path: Path, name: str) -> Iterator[int]:
    """A base is the operator's own and may be a cache of links, so these are followed."""
    try:
        fd = os.open(path / name, READ_FLAGS)
    except (OSError, ValueError) as error:
        raise ArtifactRejected(
            Code.BASE_MISSING,
            f"{name} of the base cannot be opened; give the folder of a complete base model.",
        ) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ArtifactRejected(
                Code.BASE_MISSING, f"{name} of the base is not a regular file; replace it."
            )
        yield fd
    finally:
        os.close(fd)


def _read(path: Path, name: str, code: Code) -> bytes:
    with _open(path, name) as fd, reading(name, code):
        return read_whole(fd, MAX_JSON_BYTES, name=name, code=code)


def _bad_weights(what: str) -> ArtifactRejected:
    return ArtifactRejected(Code.BASE_WEIGHTS_INVALID, f"{what}; download the base again.")


def _refuse_packed(tensors: Sequence[TensorInfo]) -> None:
    for tensor in tensors:
        if tensor.name.endswith(PACKED_SUFFIXES):
            raise ArtifactRejected(
                Code.BASE_QUANTIZATION_UNSUPPORTED,
                f"{shown(tensor.name)} of the base is packed by a quantisation which hides the"
                " shapes of its layers; use the base in bf16, fp16, fp32 or fp8.",
            )


def _modules(tensors: Sequence[TensorInfo]) -> dict[str, tuple[int, int]]:
    return {
        tensor.name.removesuffix(".weight"): (tensor.shape[0], tensor.shape[1])
        for tensor in tensors
        if tensor.name.endswith(".weight") and len(tensor.shape) == 2
    }


def _tied_head(modules: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """A tied output layer has no tensor of its own, or a copy that is not used."""
    shapes = [shape for name, shape in modules.items() if name.endswith("embed_tokens")]
    return {"lm_head": shapes[0]} if len(shapes) == 1 else {}


def _architecture(config: Mapping[str, object]) -> str:
    names = config.get("architectures")
    if isinstance(names, list) and len(names) == 1 and isinstance(names[0], str):
        return names[0]
    raise _bad_config("architectures", names, "a list with one class name")


def _text(config: Mapping[str, object], field: str) -> str:
    value = config.get(field)
    if isinstance(value, str) and value:
        return value
    raise _bad_config(field, value, "a name")


def _count(config: Mapping[str, object], field: str, *other_names: str) -> int:
    """The first of the fields that is there: older architectures have names of their own."""
    found = next((name for name in (field, *other_names) if name in config), field)
    value = config.get(found)
    if type(value) is int and 1 <= value < 1 << 31:
        return value
    raise _bad_config(found, value, "a number of at least 1")


def _dtype(config: Mapping[str, object], tensors: Sequence[TensorInfo]) -> str:
    """The dtype that config.json declares, else the one of most bytes."""
    declared = config.get("dtype", config.get("torch_dtype"))
    if isinstance(declared, str) and declared in DTYPES:
        return DTYPES[declared]
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.end - tensor.start
    if not sizes:
        raise _bad_weights("The base has no tensors")
    return sizes.most_common(1)[0][0]


def _bad_config(field: str, value: object, wanted: str) -> ArtifactRejected:
    return ArtifactRejected(
        Code.BASE_CONFIG_INVALID,
        f"{field} in {CONFIG} of the base is {shown(value)}; it must be {wanted}.",
    )


def _fingerprint(path: Path, config: bytes, headers: Sequence[Header]) -> str:
    files = [
        [name, size, sorted([t.name, t.dtype, list(t.shape)] for t in tensors)]
        for name, size, tensors in headers
    ]
    beside = [[name, file_sha256(path / name)] for name in ANSWER_FILES if (path / name).is_file()]
    manifest = [hashlib.sha256(config).hexdigest(), files, beside]
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
