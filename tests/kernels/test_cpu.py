"""Which layer a CPU gets, what the compiled one refuses, and how weights are packed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from stackserve_kernels import lora
from stackserve_kernels.lora import library as library_module
from stackserve_kernels.lora.packing import num_groups, pack_layer


@pytest.fixture
def compiled() -> None:
    if lora.cpu_library() is None:
        pytest.skip("there was no compiler when the package was installed")


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_layer_is_compiled_where_the_kernels_know_its_types(dtype: torch.dtype) -> None:
    assert isinstance(lora.make_layer(64, (64,), 4, dtype), lora.CpuLayer)


def test_a_layer_of_another_type_or_of_an_odd_width_is_served_by_torch() -> None:
    assert isinstance(lora.make_layer(64, (64,), 4, torch.float16), lora.GroupedLayer)
    assert isinstance(lora.make_layer(63, (64,), 4, torch.bfloat16), lora.GroupedLayer)


@pytest.mark.usefixtures("compiled")
def test_rows_of_another_type_than_the_layer_are_refused() -> None:
    layer = lora.CpuLayer(64, (64,), 1, torch.bfloat16)
    layer.load(0, _one_adapter(8))
    rows = torch.zeros(1, 64)
    with pytest.raises(TypeError, match=r"torch\.float32 .* for a layer of torch\.bfloat16"):
        layer.add(rows, rows, lora.plan_rows([0]))


@pytest.mark.usefixtures("compiled")
def test_a_rank_above_the_largest_is_refused() -> None:
    layer = lora.CpuLayer(64, (64,), 1, torch.bfloat16)
    with pytest.raises(ValueError, match="rank 513 is above 512"):
        layer.load(0, _one_adapter(513))


def test_without_a_library_torch_serves_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(library_module, "LIBRARY", tmp_path / "missing.so")
    library_module.cpu_library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            layers = [lora.make_layer(64, (64,), 1, torch.bfloat16) for _ in range(3)]
            assert lora.kernels_in_use() == "torch, slowly: there are no compiled kernels"
    finally:
        library_module.cpu_library.cache_clear()
    assert all(isinstance(layer, lora.GroupedLayer) for layer in layers)
    (record,) = caplog.records
    assert "Install a C++ compiler, then stackserve again" in record.message


def test_packed_weights_take_their_own_rank_and_no_more() -> None:
    for rank in (1, 8, 16, 32, 64):
        packed = pack_layer(_one_adapter(rank).slices, torch.bfloat16, lora.WeightMemory())
        even = rank + rank % 2  # B holds pairs
        assert packed.data.nbytes - 64 == 2 * (64 * rank + 64 * even)
    assert num_groups(33, 2) == 32  # whole tiles above rank 32
    assert num_groups(33, 1) == 33


def test_slices_without_weights_take_no_memory() -> None:
    (each,) = _one_adapter(8).slices
    packed = pack_layer((None, each, None), torch.bfloat16, lora.WeightMemory())
    alone = pack_layer((each,), torch.bfloat16, lora.WeightMemory())
    assert [one is None for one in packed.slices] == [True, False, True]
    assert packed.data.nbytes == alone.data.nbytes


def test_an_adapters_layers_lie_side_by_side_on_lines_and_large_blocks_get_their_own() -> None:
    memory = lora.WeightMemory()
    first, second = memory.take(33, torch.bfloat16), memory.take(5, torch.float32)
    assert second.data_ptr() - first.data_ptr() == 128
    assert first.data_ptr() % (2 << 20) == 0
    large = memory.take(9 << 20, torch.uint8)
    assert len(large) == 9 << 20
    assert not large.any()
    first.fill_(1.0)
    assert not second.any()


def _one_adapter(rank: int) -> lora.LayerWeights:
    a, b = torch.randn(rank, 64).bfloat16(), torch.randn(64, rank).bfloat16()
    return lora.LayerWeights((lora.SliceWeights(a, b),))
