"""Validation of an adapter against its base, before any engine sees it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stackserve.adapters.any_kind import validate_any_kind
from stackserve.adapters.architecture import BaseArchitecture
from stackserve.adapters.codes import Code
from stackserve.adapters.folder import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    OpenAdapter,
    adapter_digest,
    digest_files,
    open_adapter,
    read_config,
)
from stackserve.adapters.lora_modules import LoraModule, lora_modules
from stackserve.adapters.peft_config import PeftConfig, check_scale, parse_config, target_covers
from stackserve.adapters.safetensors_file import TensorInfo, read_header
from stackserve.adapters.served_modules import EMBEDDINGS, ServedModules, served_modules
from stackserve.adapters.strict_json import shown
from stackserve.adapters.validated import AdapterLimits, ValidatedAdapter
from stackserve.adapters.values import LARGEST_VALUE, largest_magnitude
from stackserve.errors import ArtifactRejected

# Room for some 20,000 tensors: more than any served base has modules, and quick to parse.
MAX_HEADER_BYTES = 4 << 20
LAYER = re.compile(r"(?P<before>(?:.*\.)?layers\.)(?P<index>[0-9]+)(?P<after>\..+)")


@dataclass(frozen=True)
class ScaledModule:
    """A trained module with the rank and the scale that the config gives it."""

    lora: LoraModule
    rank: int
    scale: float


@dataclass(frozen=True)
class AdapterFacts:
    """What is known of an adapter without its base. `digest` as of ValidatedAdapter."""

    digest: str
    rank: int
    target_modules: tuple[str, ...]
    dtype: str
    parameters: int
    size_bytes: int
    base_model_name: str


def validate_adapter(
    folder: Path, base: BaseArchitecture, limits: AdapterLimits
) -> ValidatedAdapter:
    """Check a PEFT adapter against a base; every defect raises ArtifactRejected.

    The answer holds for the bytes read. Only a folder that nobody else writes to keeps them.
    """
    if limits.any_kind:
        return validate_any_kind(folder, base, limits)
    with open_adapter(folder, limits.max_bytes) as opened:
        config, tensors, scaled = _read_fitting(opened, base, limits)
        for each in scaled:
            _check_values(each, opened.weights_fd)
        files = digest_files(opened)
    return ValidatedAdapter(
        digest=adapter_digest(files),
        rank=max(each.rank for each in scaled),
        scalings=tuple(sorted({each.scale for each in scaled})),
        target_modules=_last_parts(each.lora for each in scaled),
        dtype=_dtypes(tensors),
        parameters=sum(tensor.elements for tensor in tensors),
        size_bytes=sum(file.size for file in files),
        folder=folder,
        files=files,
        base_fingerprint=base.fingerprint,
        base_model_name=config.base_model_name,
    )


def check_fit(folder: Path, base: BaseArchitecture, limits: AdapterLimits) -> None:
    """The part of `validate_adapter` that needs the base: reads the config and the header of the
    weights, and no values. Raises ArtifactRejected.
    """
    with open_adapter(folder, limits.max_bytes) as opened:
        _read_fitting(opened, base, limits)


def inspect_adapter(folder: Path, limits: AdapterLimits) -> AdapterFacts:
    """The part of `validate_adapter` that needs no base, values included. Raises ArtifactRejected."""
    with open_adapter(folder, limits.max_bytes) as opened:
        config, tensors, modules = _read(opened, limits)
        for module in modules:
            rank, scale = config.rank_of(module.name), config.scale_of(module.name)
            check_scale(scale, module.name)
            _check_values(ScaledModule(module, rank, scale), opened.weights_fd)
        _check_targets(modules, config)
        files = digest_files(opened)
    return AdapterFacts(
        digest=adapter_digest(files),
        rank=max(config.rank_of(module.name) for module in modules),
        target_modules=_last_parts(modules),
        dtype=_dtypes(tensors),
        parameters=sum(tensor.elements for tensor in tensors),
        size_bytes=sum(file.size for file in files),
        base_model_name=config.base_model_name,
    )


def _read(
    opened: OpenAdapter, limits: AdapterLimits
) -> tuple[PeftConfig, tuple[TensorInfo, ...], tuple[LoraModule, ...]]:
    config = parse_config(read_config(opened))
    _check_rank_limit(config, limits.max_rank)
    tensors = read_header(
        opened.weights_fd,
        name=WEIGHTS_FILE,
        code=Code.WEIGHTS_INVALID,
        max_header=MAX_HEADER_BYTES,
    )
    return config, tensors, lora_modules(tensors)


def _read_fitting(
    opened: OpenAdapter, base: BaseArchitecture, limits: AdapterLimits
) -> tuple[PeftConfig, tuple[TensorInfo, ...], list[ScaledModule]]:
    served = served_modules(base)
    config, tensors, modules = _read(opened, limits)
    for module in modules:
        _check_module(module, base, served)
    _check_targets(modules, config)
    return config, tensors, [_scaled(module, config, base) for module in modules]


def _last_parts(modules: Iterable[LoraModule]) -> tuple[str, ...]:
    return tuple(sorted({module.name.rpartition(".")[2] for module in modules}))


def _dtypes(tensors: Iterable[TensorInfo]) -> str:
    return "+".join(sorted({tensor.dtype for tensor in tensors}))


def _check_rank_limit(config: PeftConfig, max_rank: int) -> None:
    if config.largest_rank > max_rank:
        raise ArtifactRejected(
            Code.RANK_OVER_LIMIT,
            f"r or rank_pattern in {CONFIG_FILE} asks for rank {shown(config.largest_rank)}, over"
            f" the limit of {max_rank}; train with a lower rank or raise the limit.",
        )


def _check_module(module: LoraModule, base: BaseArchitecture, served: ServedModules) -> None:
    if module.name not in base.modules:
        raise _not_in_base(module.name, base)
    if not served.serves(module.name):
        raise ArtifactRejected(
            Code.MODULE_NOT_SERVED,
            f"{shown(module.name)} is a module on which {base.architecture} takes no adapter;"
            f" train only {', '.join(served.linear + served.embeddings)}.",
        )
    if module.embedding != module.name.endswith("embed_tokens"):
        raise ArtifactRejected(
            Code.TENSOR_NAME_INVALID,
            f"{module.a.name} is the wrong kind of tensor for its module; embed_tokens takes"
            " lora_embedding_A and lora_embedding_B, every other module lora_A and lora_B.",
        )


def _not_in_base(module: str, base: BaseArchitecture) -> ArtifactRejected:
    match = LAYER.fullmatch(module)
    beyond = match is not None and int(match["index"]) >= base.layers
    if match and beyond and f"{match['before']}0{match['after']}" in base.modules:
        return ArtifactRejected(
            Code.LAYER_OUT_OF_RANGE,
            f"{shown(module)} is of layer {shown(match['index'])[1:-1]}, but the base has layers 0"
            f" to {base.layers - 1}; use the base that the adapter was trained on.",
        )
    return ArtifactRejected(
        Code.MODULE_NOT_IN_BASE,
        f"{shown(module)} is not a module of the base; use the base that the adapter was trained"
        " on.",
    )


def _scaled(module: LoraModule, config: PeftConfig, base: BaseArchitecture) -> ScaledModule:
    rank, scale = config.rank_of(module.name), config.scale_of(module.name)
    check_scale(scale, module.name)
    outputs, inputs = base.modules[module.name]
    if module.embedding:  # its weight is (vocabulary, hidden), and it maps a token to hidden
        outputs, inputs = base.hidden_size, base.vocabulary_size
    _check_shape(module.a, rank_axis=0, rank=rank, other=inputs)
    _check_shape(module.b, rank_axis=1, rank=rank, other=outputs)
    return ScaledModule(module, rank, scale)


def _check_shape(tensor: TensorInfo, *, rank_axis: int, rank: int, other: int) -> None:
    wanted = (rank, other) if rank_axis == 0 else (other, rank)
    if tensor.shape == wanted:
        return
    shape = shown(list(tensor.shape))
    if len(tensor.shape) == 2 and tensor.shape[1 - rank_axis] == other:
        raise ArtifactRejected(
            Code.RANK_MISMATCH,
            f"{tensor.name} has the shape {shape}, so its rank is not the {rank} of"
            f" {CONFIG_FILE}; restore the r and rank_pattern of the training.",
        )
    raise ArtifactRejected(
        Code.SHAPE_MISMATCH,
        f"{tensor.name} has the shape {shape} where the base needs {shown(list(wanted))};"
        " use the base that the adapter was trained on.",
    )


def _check_targets(modules: tuple[LoraModule, ...], config: PeftConfig) -> None:
    names = [module.name for module in modules]
    for name in names:
        if not config.targets(name):
            raise ArtifactRejected(
                Code.MODULE_NOT_TARGETED,
                f"{shown(name)} has tensors but target_modules in {CONFIG_FILE} does not name it;"
                " add it there or remove its tensors.",
            )
    for target in config.target_modules or ():
        if not any(target_covers(target, name) for name in names):
            raise ArtifactRejected(
                Code.TARGET_WITHOUT_TENSORS,
                f"target_modules in {CONFIG_FILE} names {shown(target)} but no tensor belongs to"
                " it; remove the name, or save the adapter again if its tensors were lost.",
            )
    if config.ensure_weight_tying and any(name.endswith(EMBEDDINGS) for name in names):
        raise ArtifactRejected(
            Code.UNSUPPORTED_FEATURE,
            f"ensure_weight_tying in {CONFIG_FILE} is True, which is not served with adapters on"
            " embed_tokens or lm_head; train the adapter without it.",
        )


def _check_values(module: ScaledModule, fd: int) -> None:
    a, b = largest_magnitude(fd, module.lora.a), largest_magnitude(fd, module.lora.b)
    # vLLM stores B times the scale; `rank` products of A and B add up to an element of the delta.
    bound = max(b * module.scale, a * b * module.scale * module.rank)
    if bound > LARGEST_VALUE:
        raise ArtifactRejected(
            Code.DELTA_TOO_LARGE,
            f"{shown(module.lora.name)} may change the base's weights by {bound:.3g}, over"
            f" {LARGEST_VALUE:.0f}; restore lora_alpha, or take an earlier checkpoint.",
        )
