"""The stable codes of every refusal in this package; docs/adapters.md explains each one."""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """Why a base or an adapter was refused. A code never changes its meaning."""

    # The folder and its files.
    FOLDER_MISSING = "folder_missing"
    FILE_MISSING = "file_missing"
    FILE_UNREADABLE = "file_unreadable"
    NOT_A_REGULAR_FILE = "not_a_regular_file"
    SYMLINK = "symlink"
    TOO_MANY_FILES = "too_many_files"
    PICKLE_WEIGHTS = "pickle_weights"
    ADAPTER_TOO_LARGE = "adapter_too_large"

    # adapter_config.json.
    CONFIG_TOO_LARGE = "config_too_large"
    CONFIG_INVALID = "config_invalid"
    CONFIG_FIELD_INVALID = "config_field_invalid"
    CONFIG_UNKNOWN_FIELD = "config_unknown_field"
    UNSUPPORTED_FEATURE = "unsupported_feature"
    RANK_INVALID = "rank_invalid"
    RANK_OVER_LIMIT = "rank_over_limit"
    ALPHA_INVALID = "alpha_invalid"
    SCALE_OUT_OF_RANGE = "scale_out_of_range"
    PATTERN_KEY_INVALID = "pattern_key_invalid"

    # adapter_model.safetensors.
    WEIGHTS_INVALID = "weights_invalid"
    WEIGHTS_EMPTY = "weights_empty"
    TENSOR_NAME_INVALID = "tensor_name_invalid"
    DTYPE_UNSUPPORTED = "dtype_unsupported"
    BASE_WEIGHTS_IN_ADAPTER = "base_weights_in_adapter"
    LORA_PAIR_INCOMPLETE = "lora_pair_incomplete"
    VALUE_NAN = "value_nan"
    VALUE_INFINITE = "value_infinite"
    VALUE_TOO_LARGE = "value_too_large"
    DELTA_TOO_LARGE = "delta_too_large"

    # How the two fit each other and the base.
    MODULE_NOT_IN_BASE = "module_not_in_base"
    LAYER_OUT_OF_RANGE = "layer_out_of_range"
    MODULE_NOT_SERVED = "module_not_served"
    MODULE_NOT_TARGETED = "module_not_targeted"
    TARGET_WITHOUT_TENSORS = "target_without_tensors"
    RANK_MISMATCH = "rank_mismatch"
    SHAPE_MISMATCH = "shape_mismatch"

    # A composite and its parts.
    PART_REFUSED = "part_refused"
    PART_OF_ANOTHER_BASE = "part_of_another_base"

    # The base model.
    BASE_MISSING = "base_missing"
    BASE_CONFIG_INVALID = "base_config_invalid"
    BASE_WEIGHTS_INVALID = "base_weights_invalid"
    BASE_QUANTIZATION_UNSUPPORTED = "base_quantization_unsupported"
    BASE_ARCHITECTURE_UNSUPPORTED = "base_architecture_unsupported"

    # The store.
    STORE_FULL = "store_full"
    STORE_UNWRITABLE = "store_unwritable"
    ADAPTER_NOT_STORED = "adapter_not_stored"
    ADAPTER_DAMAGED = "adapter_damaged"
