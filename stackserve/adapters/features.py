"""The fields of adapter_config.json beyond rank, alpha and targets: which change the answer."""

from __future__ import annotations

from collections.abc import Mapping, Set

from stackserve.adapters.codes import Code
from stackserve.adapters.folder import CONFIG_FILE
from stackserve.adapters.strict_json import shown
from stackserve.errors import ArtifactRejected

RETRAIN = "train the adapter without it, or merge it into a base of its own"
CONVERT = "save it again with PEFT's `path_initial_model_for_weight_conversion`"

# Read by peft_config, or without any effect on a trained adapter: they choose modules, set the
# initial values or drive the training (names as in PEFT 0.21).
HARMLESS = frozenset({
    "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules",
    "base_model_name_or_path", "ensure_weight_tying",
    "peft_version", "auto_mapping", "revision", "inference_mode", "runtime_config",
    "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout",
    "megatron_core", "qalora_group_size",
    "loftq_config", "eva_config", "corda_config", "lora_ga_config",
})  # fmt: skip

# Each changes what the adapter computes, and vLLM 0.32 ignores or refuses it.
REFUSED_IF_SET = {
    "use_dora": f"{RETRAIN}, since vLLM does not apply DoRA's magnitudes",
    "lora_bias": f"{RETRAIN}, since vLLM does not add LoRA biases",
    "use_qalora": f"{RETRAIN}, since vLLM does not pool inputs as QALoRA does",
    "fan_in_fan_out": "use a base with Linear layers, since no served base has Conv1D ones",
    "modules_to_save": f"{RETRAIN}, since vLLM serves no replaced modules for text generation",
    "trainable_token_indices": f"{RETRAIN}, since vLLM does not load single token embeddings",
    "target_parameters": f"{RETRAIN}, since vLLM needs one LoRA pair per Linear module",
    "layer_replication": f"{RETRAIN}, since vLLM does not repeat layers",
    "alora_invocation_tokens": f"{RETRAIN}, since vLLM applies an adapter to every token",
    "megatron_config": "convert the adapter to PEFT's plain LoRA",
    "use_bdlora": f"{RETRAIN}, since vLLM does not serve block-diagonal LoRA",
    "velora_config": f"{RETRAIN}, since vLLM does not read VeLoRA's tensors",
    "kasa_config": f"{RETRAIN}, since vLLM does not apply KaSA's singular values",
    "monteclora_config": f"{RETRAIN}, since vLLM does not sample MonteCLoRA's weights",
    "arrow_config": f"{RETRAIN}, since vLLM does not route between adapters",
}
# For these an empty list or map is the same as null.
EMPTY_IS_UNSET = frozenset({
    "modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication",
    "megatron_config",
})  # fmt: skip

# Initial values only: the trained tensors are plain LoRA. Every other name changed the base.
SERVED_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica"})
SERVED_TASKS = ("CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION")


def check_features(fields: Mapping[str, object]) -> None:
    """Refuse each field whose effect on the answer vLLM would not reproduce."""
    _check_kind(fields)
    check_init(fields.get("init_lora_weights", True))
    for field, remedy in REFUSED_IF_SET.items():
        if is_set(field, fields.get(field)):
            raise unsupported(field, fields[field], remedy)
    known = (
        HARMLESS | REFUSED_IF_SET.keys() | {"peft_type", "task_type", "bias", "init_lora_weights"}
    )
    check_known(fields, known)


def _check_kind(fields: Mapping[str, object]) -> None:
    peft_type = fields.get("peft_type")
    if peft_type != "LORA":
        raise unsupported("peft_type", peft_type, "train the adapter with LoRA (peft_type LORA)")
    check_task(fields.get("task_type"))
    bias = fields.get("bias", "none")
    if bias != "none":
        raise unsupported("bias", bias, f'{RETRAIN}: only "none" is served')


def check_task(task_type: object) -> None:
    """Refuse an adapter with a head of its own."""
    if task_type is not None and task_type not in SERVED_TASKS:
        raise unsupported(
            "task_type", task_type, f"use null or one of {', '.join(SERVED_TASKS)}, without a head"
        )


def check_init(init: object) -> None:
    """Refuse an initialisation that changed the base."""
    if init is None or isinstance(init, bool):
        return
    if not isinstance(init, str) or init.lower() not in SERVED_INITS:
        remedy = f"{CONVERT}, since this initialisation changed the base's weights"
        raise unsupported("init_lora_weights", init, remedy)


def is_set(field: str, value: object) -> bool:
    """Whether a field asks for something."""
    if value is None or value is False:
        return False
    return not (field in EMPTY_IS_UNSET and value in ([], {}))


def unsupported(field: str, value: object, remedy: str) -> ArtifactRejected:
    """The refusal of what is known and not served."""
    return ArtifactRejected(
        Code.UNSUPPORTED_FEATURE,
        f"{field} in {CONFIG_FILE} is {shown(value)}, which is not served; {remedy}.",
    )


def check_known(fields: Mapping[str, object], known: Set[str]) -> None:
    """Refuse every other field that is set: it may change the answer."""
    for field in fields.keys() - known:
        if fields[field] not in (None, False, [], {}):
            raise ArtifactRejected(
                Code.CONFIG_UNKNOWN_FIELD,
                f"{shown(field)} in {CONFIG_FILE} is {shown(fields[field])}, a field not known to"
                " this version; remove it if it does not change what the adapter computes.",
            )
