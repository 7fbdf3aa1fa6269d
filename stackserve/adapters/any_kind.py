"""Adapters of every kind that the transformers worker serves: what can be known of one without PEFT.

That its tensors fit its configuration and its base is PEFT's own knowledge: the worker holds it to that
when it loads the adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from stackserve.adapters.architecture import BaseArchitecture
from stackserve.adapters.codes import Code
from stackserve.adapters.features import check_init, check_known, check_task, is_set, unsupported
from stackserve.adapters.folder import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    adapter_digest,
    digest_files,
    open_adapter,
    read_config,
)
from stackserve.adapters.lora_modules import DTYPES
from stackserve.adapters.peft_config import (
    PATTERN_KEY,
    base_model_name_of,
    check_pattern,
    check_rank,
    check_targets,
    refuse_field,
)
from stackserve.adapters.safetensors_file import TensorInfo, read_header
from stackserve.adapters.strict_json import parse_object, shown
from stackserve.adapters.validated import AdapterLimits, ValidatedAdapter
from stackserve.adapters.values import largest_magnitude
from stackserve.errors import ArtifactRejected

PREFIX = "base_model.model."
COPY_OF_THE_BASE = ".base_layer.weight"

OF_ALL = frozenset({
    "peft_type", "task_type", "base_model_name_or_path", "peft_version", "auto_mapping", "revision",
    "inference_mode", "target_modules", "exclude_modules", "modules_to_save", "bias",
    "layers_to_transform", "layers_pattern", "r", "fan_in_fan_out", "init_weights", "module_dropout",
})  # fmt: skip

FIELDS = {
    "LORA": frozenset({
        "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "use_dora", "lora_bias",
        "trainable_token_indices", "ensure_weight_tying", "runtime_config", "lora_dropout",
        "megatron_core", "qalora_group_size", "init_lora_weights",
        "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    }),
    "LOHA": frozenset({"alpha", "rank_pattern", "alpha_pattern", "rank_dropout"}),
    "LOKR": frozenset({
        "alpha", "rank_pattern", "alpha_pattern", "rank_dropout", "decompose_both",
        "decompose_factor", "rank_dropout_scale",
    }),
    "IA3": frozenset({"feedforward_modules", "init_ia3_weights"}),
    "OFT": frozenset({
        "oft_block_size", "coft", "eps", "block_share", "use_cayley_neumann",
        "num_cayley_neumann_terms",
    }),
    "HRA": frozenset({"apply_GS"}),
    "LN_TUNING": frozenset[str](),
}  # fmt: skip
"""The kinds that are served, by `peft_type`, and the fields of each beside `OF_ALL`."""

RETRAIN = "train the adapter without it"
REFUSED = frozenset({
    "use_qalora", "target_parameters", "layer_replication", "alora_invocation_tokens",
    "megatron_config", "use_bdlora", "velora_config", "kasa_config", "monteclora_config",
    "arrow_config",
})  # fmt: skip
"""Fields of LoRA that need more than weights beside the base's."""


def validate_any_kind(
    folder: Path, base: BaseArchitecture, limits: AdapterLimits
) -> ValidatedAdapter:
    """As `validate_adapter`, of an adapter that need not be one that vLLM serves."""
    with open_adapter(folder, limits.max_bytes) as opened:
        fields = parse_object(read_config(opened), name=CONFIG_FILE, code=Code.CONFIG_INVALID)
        _check_fields(fields)
        rank = _rank(fields, limits.max_rank)
        tensors = read_header(opened.weights_fd, name=WEIGHTS_FILE, code=Code.WEIGHTS_INVALID)
        _check_tensors(tensors)
        for tensor in tensors:
            largest_magnitude(opened.weights_fd, tensor)
        files = digest_files(opened)
    return ValidatedAdapter(
        digest=adapter_digest(files),
        rank=rank,
        scalings=(),
        target_modules=(str(fields["peft_type"]), *_targets(fields)),
        dtype="+".join(sorted({tensor.dtype for tensor in tensors})),
        parameters=sum(tensor.elements for tensor in tensors),
        size_bytes=sum(file.size for file in files),
        folder=folder,
        files=files,
        base_fingerprint=base.fingerprint,
        base_model_name=base_model_name_of(fields.get("base_model_name_or_path")),
    )


def _check_fields(fields: Mapping[str, object]) -> None:
    kind = fields.get("peft_type")
    if not isinstance(kind, str) or kind not in FIELDS:
        raise unsupported("peft_type", kind, f"train one of the kinds {', '.join(FIELDS)}")
    check_task(fields.get("task_type"))
    check_init(fields.get("init_lora_weights", True))
    for field in REFUSED & fields.keys():
        if is_set(field, fields[field]):
            raise unsupported(field, fields[field], RETRAIN)
    check_known(fields, OF_ALL | FIELDS[kind] | REFUSED)
    _check_names(fields)


def _check_names(fields: Mapping[str, object]) -> None:
    """Names only: an expression may take for ever. That of `target_modules` is never evaluated."""
    targets = fields.get("target_modules")
    if targets is not None:
        check_targets(targets)
    for field in ("exclude_modules", "feedforward_modules", "modules_to_save", "layers_pattern"):
        value = fields.get(field)
        of_an_expression = field == "exclude_modules" and isinstance(targets, str)
        if value is None or of_an_expression:
            continue
        names = [value] if field == "layers_pattern" and isinstance(value, str) else value
        if not isinstance(names, list) or not all(
            isinstance(name, str) and PATTERN_KEY.fullmatch(name) for name in names
        ):
            refuse_field(field, value, "a list of module names")


def _rank(fields: Mapping[str, object], most: int) -> int:
    """The largest rank, 0 where the kind has none: PEFT makes tensors of it before they are compared."""
    ranks = [check_rank(key, rank) for key, rank in check_pattern(fields, "rank_pattern").items()]
    check_pattern(fields, "alpha_pattern")
    if fields.get("r") not in (None, 0):
        ranks.append(check_rank("r", fields["r"]))
    largest = max(ranks, default=0)
    if largest > most:
        raise ArtifactRejected(
            Code.RANK_OVER_LIMIT,
            f"r or rank_pattern in {CONFIG_FILE} asks for rank {shown(largest)}, over the limit of"
            f" {most}; train with a lower rank.",
        )
    return largest


def _targets(fields: Mapping[str, object]) -> tuple[str, ...]:
    targets = fields.get("target_modules")
    return tuple(sorted(targets)) if isinstance(targets, list) else ()


def _check_tensors(tensors: Sequence[TensorInfo]) -> None:
    for tensor in tensors:
        if tensor.name.endswith(COPY_OF_THE_BASE):
            raise ArtifactRejected(
                Code.BASE_WEIGHTS_IN_ADAPTER,
                f"{shown(tensor.name)} is a copy of the base's weights; save the adapter with"
                " `save_embedding_layers=False`.",
            )
        if not tensor.name.startswith(PREFIX):
            raise ArtifactRejected(
                Code.TENSOR_NAME_INVALID,
                f"{shown(tensor.name)} in {WEIGHTS_FILE} does not begin with {PREFIX}, as names do"
                " that PEFT saves; save the adapter again.",
            )
        if tensor.dtype not in DTYPES:
            raise ArtifactRejected(
                Code.DTYPE_UNSUPPORTED,
                f"{tensor.name} has the dtype {tensor.dtype}; save it as one of"
                f" {', '.join(DTYPES)}.",
            )
    if not tensors:
        raise ArtifactRejected(
            Code.WEIGHTS_EMPTY, f"{WEIGHTS_FILE} has 0 tensors; save the trained adapter again."
        )
