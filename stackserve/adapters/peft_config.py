"""adapter_config.json, read strictly: only what vLLM 0.32 serves exactly as PEFT defines it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn, TypeVar

from stackserve.adapters.codes import Code
from stackserve.adapters.features import check_features
from stackserve.adapters.folder import CONFIG_FILE
from stackserve.adapters.strict_json import parse_object, shown
from stackserve.errors import ArtifactRejected

# B times the scale is stored in the engine's dtype: outside these bounds nothing useful is left.
MIN_SCALE, MAX_SCALE = 1e-6, 1e4
MAX_PATTERNS = 1024
MAX_TARGETS = 2048
MAX_NAME_LENGTH = 256
PATTERN_KEY = re.compile(r"[A-Za-z0-9_.]+")
TARGET_NAME = re.compile(r"[A-Za-z0-9_.\-]+")


T = TypeVar("T")


@dataclass(frozen=True)
class PeftConfig:
    """The fields of adapter_config.json that decide what the adapter computes."""

    rank: int
    alpha: float
    use_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    # None: a regular expression or "all-linear". It is never evaluated, since a hostile expression
    # may take for ever; PEFT uses it to choose modules, and the tensors show what it chose.
    target_modules: tuple[str, ...] | None
    base_model_name: str
    ensure_weight_tying: bool

    @property
    def largest_rank(self) -> int:
        """vLLM compares this one with its limit, also when a pattern matches no module."""
        return max(self.rank, *self.rank_pattern.values(), 0)

    def rank_of(self, module: str) -> int:
        """The rank of a module, by the first pattern that matches its name, as in PEFT."""
        return _first_match(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str) -> float:
        """The factor on B·A for a module."""
        alpha = _first_match(self.alpha_pattern, module, self.alpha)
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def targets(self, module: str) -> bool:
        """Whether `target_modules` covers a module; a regular expression covers every module."""
        if self.target_modules is None:
            return True
        return any(target_covers(target, module) for target in self.target_modules)


def target_covers(target: str, module: str) -> bool:
    """PEFT's rule for a listed target: the whole name, or its last parts."""
    return module == target or module.endswith("." + target)


def parse_config(data: bytes) -> PeftConfig:
    """Read adapter_config.json, refusing whatever vLLM would drop or compute differently."""
    fields = parse_object(data, name=CONFIG_FILE, code=Code.CONFIG_INVALID)
    check_features(fields)
    return PeftConfig(
        rank=check_rank("r", fields.get("r")),
        alpha=_alpha("lora_alpha", fields.get("lora_alpha")),
        use_rslora=_flag(fields, "use_rslora"),
        rank_pattern={key: check_rank(f"rank_pattern[{key}]", value)
                      for key, value in check_pattern(fields, "rank_pattern").items()},
        alpha_pattern={key: _alpha(f"alpha_pattern[{key}]", value)
                       for key, value in check_pattern(fields, "alpha_pattern").items()},
        target_modules=check_targets(fields.get("target_modules")),
        base_model_name=base_model_name_of(fields.get("base_model_name_or_path")),
        ensure_weight_tying=_flag(fields, "ensure_weight_tying"),
    )  # fmt: skip


def check_scale(scale: float, module: str) -> None:
    """Refuse a scale that erases the adapter, or overflows when vLLM multiplies B by it."""
    if not MIN_SCALE <= scale <= MAX_SCALE:
        raise ArtifactRejected(
            Code.SCALE_OUT_OF_RANGE,
            f"lora_alpha and r in {CONFIG_FILE} give {shown(module)} the scale {scale:.3g}, outside"
            f" {MIN_SCALE:g} to {MAX_SCALE:g}; restore the lora_alpha of the training.",
        )


@lru_cache(maxsize=2 * MAX_PATTERNS)
def _compiled(key: str) -> re.Pattern[str]:
    # The rule of PEFT and vLLM: the key matches the last parts of the name, "." any character.
    return re.compile(rf"(?:.*\.)?(?:{key})")


def _first_match(pattern: Mapping[str, T], module: str, default: T) -> T:
    for key, value in pattern.items():
        if _compiled(key).fullmatch(module):
            return value
    return default


def refuse_field(field: str, value: object, wanted: str) -> NoReturn:
    raise ArtifactRejected(
        Code.CONFIG_FIELD_INVALID,
        f"{field} in {CONFIG_FILE} is {shown(value)}; set it to {wanted}.",
    )


def _flag(fields: Mapping[str, object], field: str) -> bool:
    value = fields.get(field)
    if value is None or isinstance(value, bool):
        return bool(value)
    refuse_field(field, value, "true or false")


def check_rank(field: str, value: object) -> int:
    if type(value) is not int or value < 1:  # `type`: to isinstance, True is an int
        raise ArtifactRejected(
            Code.RANK_INVALID,
            f"{field} in {CONFIG_FILE} is {shown(value)}; set it to the rank of the tensors,"
            " an integer of at least 1.",
        )
    return value


def _alpha(field: str, value: object) -> float:
    try:
        number = float(value) if type(value) in (int, float) else math.nan  # type: ignore[arg-type]
    except OverflowError:
        number = math.inf
    if not (math.isfinite(number) and number > 0):
        raise ArtifactRejected(
            Code.ALPHA_INVALID,
            f"{field} in {CONFIG_FILE} is {shown(value)}; set it to the lora_alpha of the training,"
            " a number above 0.",
        )
    return number


def check_pattern(fields: Mapping[str, object], field: str) -> Mapping[str, object]:
    pattern = fields.get(field)
    if pattern is None:
        return {}
    if not isinstance(pattern, dict) or len(pattern) > MAX_PATTERNS:
        refuse_field(field, pattern, f"a map of at most {MAX_PATTERNS} module names")
    for key in pattern:
        if len(key) > MAX_NAME_LENGTH or not PATTERN_KEY.fullmatch(key):
            raise ArtifactRejected(
                Code.PATTERN_KEY_INVALID,
                f"{field} in {CONFIG_FILE} has the key {shown(key)}, which the engine would run as"
                " a regular expression; write module names of letters, digits, dots and"
                " underscores.",
            )
    return pattern


def check_targets(value: object) -> tuple[str, ...] | None:
    if isinstance(value, str) and value:
        return None
    if not isinstance(value, list) or not 0 < len(value) <= MAX_TARGETS:
        refuse_field("target_modules", value, "the names of the trained modules")
    for name in value:
        usable = isinstance(name, str) and len(name) <= MAX_NAME_LENGTH
        if not usable or not TARGET_NAME.fullmatch(name):
            refuse_field("target_modules", name, "a list of module names such as q_proj")
    return tuple(sorted(set(value)))


def base_model_name_of(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > 4096 or not value.isprintable():
        refuse_field("base_model_name_or_path", value, "the name of the base, or null")
    return value
