"""Synthetic adapters pass validation, are the same each time, and merge into the base exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.adapter_folders import PROJECTIONS, projections, write_adapter, write_merged
from stackserve.adapters import AdapterLimits, BaseArchitecture, validate_adapter
from tests.tiny_models import write_base

LIMITS = AdapterLimits(max_rank=16, max_bytes=1 << 20)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_validation_accepts_what_is_written(base: Path, tmp_path: Path, rank: int) -> None:
    architecture = BaseArchitecture.from_folder(base)
    write_adapter(tmp_path / "adapter", architecture, rank, seed=0)
    validated = validate_adapter(tmp_path / "adapter", architecture, LIMITS)
    assert (validated.rank, validated.dtype, validated.scalings) == (rank, "BF16", (1.0,))
    assert set(validated.target_modules) == set(PROJECTIONS)


def test_a_seed_is_an_adapter(base: Path, tmp_path: Path) -> None:
    architecture = BaseArchitecture.from_folder(base)
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        write_adapter(tmp_path / name, architecture, 4, seed)
    digests = [
        validate_adapter(tmp_path / name, architecture, LIMITS).digest
        for name in ("one", "again", "other")
    ]
    assert digests[0] == digests[1] != digests[2]


def test_merging_adds_the_delta_to_the_projections_alone(base: Path, tmp_path: Path) -> None:
    architecture = BaseArchitecture.from_folder(base)
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    write_adapter(adapter, architecture, 4, seed=0)
    write_merged(merged, base, adapter)
    before, after = (load_file(folder / "model.safetensors") for folder in (base, merged))
    lora = load_file(adapter / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    for name, weight in before.items():
        module = name.removesuffix(".weight")
        wanted = weight
        if module in projections(architecture):
            a, b = (lora[f"base_model.model.{module}.lora_{side}.weight"].float() for side in "AB")
            wanted = (weight.float() + b @ a).to(weight.dtype)
            assert not torch.equal(wanted, weight)
        assert torch.equal(after[name], wanted)
    assert (merged / "config.json").read_bytes() == (base / "config.json").read_bytes()
