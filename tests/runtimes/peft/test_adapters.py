"""Every kind of adapter computes what PEFT computes, and leaves the base as it is; others are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stackserve.adapters import AdapterLimits, BaseArchitecture, validate_adapter
from stackserve.runtimes.peft.adapters import AdapterRefused, load_adapter, shared_copy
from tests.runtimes.peft.tiny_peft import KINDS, load, with_peft

pytestmark = pytest.mark.filterwarnings("ignore:Unsupported layer type")  # PEFT's, of each norm

CPU = torch.device("cpu")
IDS = torch.arange(97, 110)[None]
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(llama: Path) -> Any:
    return load(llama)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def state(model: Any) -> list[tuple[int, int]]:
    """Where each tensor is, and how often it was written."""
    return [(each.data_ptr(), each._version) for each in (*model.parameters(), *model.buffers())]


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_computes_what_peft_computes_beside_all_others(
    kind: str, base: Any, llama: Path, adapter: Callable[[str], Path]
) -> None:
    before, alone = state(base), base(IDS).logits
    expected = with_peft(llama, adapter(kind))(IDS).logits
    model = load_adapter(base, adapter(kind), CPU)
    assert torch.equal(model(IDS).logits, expected)
    assert (expected - alone).abs().max() > 0.01
    assert state(base) == before
    assert torch.equal(base(IDS).logits, alone)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_passes_the_gateways_validation(
    kind: str, llama: Path, adapter: Callable[[str], Path]
) -> None:
    architecture = BaseArchitecture.from_folder(llama)
    limits = AdapterLimits(max_rank=512, max_bytes=1 << 20, any_kind=True)
    validated = validate_adapter(adapter(kind), architecture, limits)
    assert validated.parameters == sum(
        tensor.numel() for tensor in load_file(adapter(kind) / WEIGHTS).values()
    )


def test_a_copy_shares_every_tensor(base: Any) -> None:
    copy = shared_copy(base)
    assert [id(each) for each in copy.parameters()] == [id(each) for each in base.parameters()]
    assert copy.model.layers[0] is not base.model.layers[0]


@pytest.fixture
def spoilt(adapter: Callable[[str], Path], tmp_path: Path) -> Any:
    """A LoRA adapter with its tensors or its configuration changed."""

    def spoil(tensors: Any = None, **config: Any) -> Path:
        folder = tmp_path / "spoilt"
        shutil.copytree(adapter("lora"), folder)
        fields = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**fields, **config}))
        if tensors is not None:
            found = load_file(folder / WEIGHTS)
            save_file(tensors(found), folder / WEIGHTS)
        return folder

    return spoil


def without(name: str) -> Any:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def test_a_missing_tensor_is_refused_by_name(base: Any, spoilt: Any) -> None:
    name = f"{Q0}.lora_B.weight"
    with pytest.raises(AdapterRefused, match=f"it lacks {name}"):
        load_adapter(base, spoilt(without(name)), CPU)


def test_a_tensor_without_a_place_is_refused_and_never_written(base: Any, spoilt: Any) -> None:
    before = state(base)
    name = "base_model.model.lm_head.weight"
    folder = spoilt(lambda tensors: {**tensors, name: torch.zeros(300, 32)})
    with pytest.raises(AdapterRefused, match=f"no place for {name}"):
        load_adapter(base, folder, CPU)
    assert state(base) == before


def test_another_shape_is_refused(base: Any, spoilt: Any) -> None:
    name = f"{Q0}.lora_A.weight"
    folder = spoilt(lambda tensors: {**tensors, name: torch.zeros(4, 31)})
    with pytest.raises(AdapterRefused, match=r"shape \[4, 31\] where the base needs \[4, 32\]"):
        load_adapter(base, folder, CPU)


def test_targets_that_the_base_lacks_are_refused(base: Any, spoilt: Any) -> None:
    with pytest.raises(AdapterRefused, match="nowhere"):
        load_adapter(base, spoilt(target_modules=["nowhere"]), CPU)


def test_an_expression_is_never_evaluated(
    base: Any, llama: Path, adapter: Callable[[str], Path], spoilt: Any
) -> None:
    folder = spoilt(target_modules="(a+)+$" + "a" * 40)
    assert torch.equal(
        load_adapter(base, folder, CPU)(IDS).logits,
        with_peft(llama, adapter("lora"))(IDS).logits,
    )


def test_a_folder_without_weights_is_refused(base: Any, spoilt: Any) -> None:
    folder = spoilt()
    (folder / WEIGHTS).unlink()
    with pytest.raises(AdapterRefused, match="is missing"):
        load_adapter(base, folder, CPU)
