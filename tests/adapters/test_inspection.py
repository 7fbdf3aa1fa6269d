"""Validation in its two parts: what is known of an adapter alone, and whether it fits a base."""

from __future__ import annotations

from typing import Any

import pytest

from stackserve.adapters import check_fit, inspect_adapter, validate_adapter
from stackserve.errors import ArtifactRejected
from tests.tiny_models import HIDDEN, KV, Q0, filled, key

A, B = key(Q0, "A"), key(Q0, "B")
STRANGE = "model.layers.0.mlp.strange"
BEYOND = "model.layers.7.self_attn.q_proj"
ALONE: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("unsupported_feature", {"use_dora": True}, {}),
    ("rank_over_limit", {"r": 17}, {}),
    ("value_nan", {}, {A: filled((2, HIDDEN), float("nan"))}),
    ("scale_out_of_range", {"lora_alpha": 1e9}, {}),
    ("delta_too_large", {}, {A: filled((2, HIDDEN), 1e4), B: filled((HIDDEN, 2), 1e4)}),
    ("target_without_tensors", {"target_modules": ["q_proj", "v_proj", "o_proj"]}, {}),
    ("module_not_targeted", {"target_modules": ["q_proj"]}, {}),
]
"""The code, the config and the tensors of adapters that fit no base at all."""
WITH_BASE: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("shape_mismatch", {}, {A: filled((2, KV))}),
    ("layer_out_of_range", {}, {key(BEYOND, s): filled(v) for s, v in
                                (("A", (2, HIDDEN)), ("B", (HIDDEN, 2)))}),
    ("module_not_in_base", {"target_modules": ["q_proj", "v_proj", "strange"]},
     {key(STRANGE, s): filled(v) for s, v in (("A", (2, HIDDEN)), ("B", (HIDDEN, 2)))}),
]  # fmt: skip


def test_an_adapter_alone_is_described_as_it_is_on_its_base(
    adapters: Any, base: Any, limits: Any
) -> None:
    folder = adapters.make()
    alone, whole = inspect_adapter(folder, limits), validate_adapter(folder, base, limits)
    check_fit(folder, base, limits)
    for name in alone.__dataclass_fields__:
        assert getattr(alone, name) == getattr(whole, name), name


@pytest.mark.parametrize(("code", "config", "tensors"), ALONE, ids=[each[0] for each in ALONE])
def test_what_is_wrong_with_an_adapter_alone_is_found_without_a_base(
    code: str, config: Any, tensors: Any, adapters: Any, base: Any, limits: Any
) -> None:
    folder = adapters.make(config, tensors)
    for check in (inspect_adapter, lambda *given: validate_adapter(given[0], base, given[1])):
        with pytest.raises(ArtifactRejected) as caught:
            check(folder, limits)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("code", "config", "tensors"), WITH_BASE, ids=[each[0] for each in WITH_BASE]
)
def test_what_does_not_fit_is_found_on_the_base_and_not_before(
    code: str, config: Any, tensors: Any, adapters: Any, base: Any, limits: Any
) -> None:
    folder = adapters.make(config, tensors)
    inspect_adapter(folder, limits)
    for check in (check_fit, validate_adapter):
        with pytest.raises(ArtifactRejected) as caught:
            check(folder, base, limits)
        assert caught.value.code == code


def test_whether_an_adapter_fits_is_known_without_its_values(
    adapters: Any, base: Any, limits: Any
) -> None:
    check_fit(adapters.make(None, {A: filled((2, HIDDEN), float("nan"))}), base, limits)
