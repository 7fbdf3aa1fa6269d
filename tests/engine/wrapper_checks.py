"""Checks of stackserve's LoRA inside vLLM against the reference; prints the name of each that holds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.utils import convert_mapping

from stackserve.engine.base_linear import AmxProduct
from stackserve.engine.lora import GroupedPunicaWrapper
from stackserve.engine.lora_layer import BoundEmbedding, BoundLinear, BoundLogits
from stackserve.engine.plugin import PUNICA_WRAPPER, register
from stackserve_kernels.lora import AmxLinear, LayerWeights, SliceWeights, WeightMemory
from stackserve_kernels.lora.reference import add_lora_reference

SLOTS, RANK, IN, OUT, VOCABULARY = 3, 4, 16, 12, 20
IDS = [11, 22, 33]
TOKENS = (22, 22, 0, 11, 0, 33, 33, 33)
SAMPLED = (22, 0, 33)
SLOT = {0: -1, 11: 0, 22: 1, 33: 2}
MAPPING = LoRAMapping(TOKENS, SAMPLED, is_prefill=True)


def wrapper() -> GroupedPunicaWrapper:
    made = GroupedPunicaWrapper(64, 64, "cpu")
    made.update_metadata(MAPPING, IDS, SLOTS + 1, VOCABULARY)
    return made


def weights(out: int = OUT) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(SLOTS, 1, RANK, IN), torch.randn(SLOTS, 1, out, RANK)


def expected(
    y: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, ids: tuple[int, ...]
) -> torch.Tensor:
    adapters = [LayerWeights((SliceWeights(a[slot, 0], b[slot, 0]),)) for slot in range(len(a))]
    return add_lora_reference(y, x, [b.shape[2]], adapters, [SLOT[i] for i in ids])


def linear_layers_give_each_row_its_own_adapter() -> None:
    a, b = weights()
    x, y = torch.randn(len(TOKENS), IN), torch.randn(len(TOKENS), OUT)
    want = expected(y, x, a, b, TOKENS)
    wrapper().add_lora_linear(y, x, (a,), (b,), 1.0, (OUT,))
    assert torch.allclose(y, want, atol=1e-5)


def embeddings_of_rows_without_an_adapter_are_untouched() -> None:
    _, b = weights()
    looked_up, y = torch.randn(len(TOKENS), RANK), torch.randn(len(TOKENS), OUT)
    before = y.clone()
    wrapper().add_lora_embedding(y, looked_up, b, add_input=True)
    for row, id_ in enumerate(TOKENS):
        delta = b[SLOT[id_], 0] @ looked_up[row] if id_ else torch.zeros(OUT)
        assert torch.allclose(y[row], before[row] + delta, atol=1e-5)


def sampled_logits_use_the_rows_that_are_sampled() -> None:
    a, b = weights(VOCABULARY)
    hidden = torch.randn(len(TOKENS), IN)[[1, 2, 7]]
    y = torch.randn(len(SAMPLED), VOCABULARY)
    want = expected(y, hidden, a, b, SAMPLED)
    wrapper().add_lora_logits(y, hidden, a, b, 1.0)
    assert torch.allclose(y, want, atol=1e-5)


def prompt_logits_use_the_rows_of_the_view_that_is_passed() -> None:
    """Rows 5 to 7 are one request's; there are as many of them as there are sampled rows."""
    a, b = weights(VOCABULARY)
    view = torch.randn(len(TOKENS), IN)[5:8]
    y = torch.randn(3, VOCABULARY)
    want = expected(y, view, a, b, TOKENS[5:8])
    wrapper().add_lora_logits(y, view, a, b, 1.0)
    assert torch.allclose(y, want, atol=1e-5)


def full_heads_replace_only_the_rows_of_their_adapters() -> None:
    weight, bias = torch.randn(SLOTS, 1, OUT, IN), torch.randn(SLOTS, OUT)
    enabled = torch.tensor([True, True, False])
    x, y = torch.randn(len(SAMPLED), IN), torch.randn(len(SAMPLED), OUT)
    before = y.clone()
    wrapper().apply_lora_full_linear(y, x, weight, bias, enabled)
    assert torch.allclose(y[0], weight[1, 0] @ x[0] + bias[1], atol=1e-5)
    assert torch.equal(y[1:], before[1:])


def bound(kind: Any, out: int, **module: Any) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """A bound layer whose slots were written by vLLM's way: one after the other, into `module`."""
    a, b = weights(out)
    stacked: tuple[Any, Any] = (torch.zeros_like(a),), (torch.zeros_like(b),)
    if kind is BoundLogits:
        stacked = stacked[0][0], stacked[1][0]
    made = SimpleNamespace(lora_a_stacked=stacked[0], lora_b_stacked=stacked[1], **module)
    layer = kind(wrapper(), made)
    for slot in range(SLOTS):
        for target, source in ((made.lora_a_stacked, a), (made.lora_b_stacked, b)):
            (target if kind is BoundLogits else target[0])[slot] = source[slot]
        layer.load_slot(slot, WeightMemory())
    return layer, a, b


def bound_linear() -> tuple[BoundLinear, torch.Tensor, torch.Tensor, torch.Tensor]:
    base = torch.randn(OUT, IN)
    method = SimpleNamespace(apply=lambda layer, x, bias: x @ base.T)
    layer, a, b = bound(
        BoundLinear,
        OUT,
        base_layer=SimpleNamespace(params_dtype=torch.float32),
        _get_quant_method=lambda: method,
    )
    return layer, a, b, base


def a_bound_linear_layer_gives_each_row_its_own_adapter() -> None:
    layer, a, b, base = bound_linear()
    x = torch.randn(len(TOKENS), IN)
    want = expected(x @ base.T, x, a, b, TOKENS)
    assert torch.allclose(layer.linear(x, None), want, atol=1e-5)


def a_base_layer_on_our_product_takes_its_adapters_in_one_pass() -> None:
    base = torch.randn(16, 32).bfloat16()
    if not AmxLinear.serves(base):
        return
    product = AmxProduct(base, WeightMemory())
    made = SimpleNamespace(
        lora_a_stacked=(torch.randn(SLOTS, 1, RANK, 32).bfloat16(),),
        lora_b_stacked=(torch.randn(SLOTS, 1, 16, RANK).bfloat16(),),
        base_layer=SimpleNamespace(params_dtype=torch.bfloat16, cpu_linear=product),
    )
    a, b = made.lora_a_stacked[0], made.lora_b_stacked[0]
    layer = BoundLinear(wrapper(), made)
    for slot in range(SLOTS):
        made.lora_a_stacked[0][slot], made.lora_b_stacked[0][slot] = a[slot], b[slot]
        layer.load_slot(slot, WeightMemory())
    x = torch.randn(len(TOKENS), 32).bfloat16()
    want = expected((x @ base.T).float(), x.float(), a.float(), b.float(), TOKENS)
    assert torch.allclose(layer.linear(x, None).float(), want, rtol=0.02, atol=0.1)
    three = layer.linear(x.view(1, *x.shape), None)
    assert torch.equal(three[0], layer.linear(x, None))


def a_compiled_graph_gives_what_the_layer_gives() -> None:
    layer, *_ = bound_linear()
    x = torch.randn(len(TOKENS), IN)
    compiled = torch.compile(
        lambda x: layer.linear(x * 2, None), fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(x), layer.linear(x * 2, None))

    def added(x: torch.Tensor) -> torch.Tensor:
        y = x.new_zeros(len(x), OUT)
        layer.add_lora_linear(y, x)
        return y + 1

    compiled = torch.compile(added, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), added(x))


def a_slot_whose_adapter_leaves_the_layer_alone_is_emptied() -> None:
    layer, *_, base = bound_linear()
    for slot in range(SLOTS):
        layer.module.lora_a_stacked[0][slot] = 0
        layer.module.lora_b_stacked[0][slot] = 0
        layer.load_slot(slot, WeightMemory())
    x = torch.randn(len(TOKENS), IN)
    assert torch.equal(layer.linear(x, None), x @ base.T)
    assert layer.weights.adapters.is_empty


def bound_logits_use_the_rows_that_are_sampled() -> None:
    layer, a, b = bound(BoundLogits, VOCABULARY, base_layer=SimpleNamespace(head_dtype=None))
    hidden = torch.randn(len(TOKENS), IN)[[1, 2, 7]]
    y = torch.randn(len(SAMPLED), VOCABULARY)
    want = expected(y, hidden, a, b, SAMPLED)
    layer.add_lora_logits(y, hidden)
    assert torch.allclose(y, want, atol=1e-5)


def bound_logits_of_another_type_than_the_adapters_are_exact_too() -> None:
    head = SimpleNamespace(head_dtype=torch.float64)
    layer, a, b = bound(BoundLogits, VOCABULARY, base_layer=head)
    hidden = torch.randn(len(TOKENS), IN)[[1, 2, 7]]
    y = torch.randn(len(SAMPLED), VOCABULARY, dtype=torch.float64)
    want = expected(y, hidden, a, b, SAMPLED)
    layer.add_lora_logits(y, hidden)
    assert torch.allclose(y, want, atol=1e-5)


def a_bound_embedding_computes_only_when_an_adapter_has_one() -> None:
    _, b = weights()
    module = SimpleNamespace(lora_b_stacked=torch.zeros_like(b))
    layer = BoundEmbedding(wrapper(), module)
    looked_up, y = torch.randn(len(TOKENS), RANK), torch.randn(len(TOKENS), OUT)
    before = y.clone()
    layer.load_slot(1, WeightMemory())
    layer.add_lora_embedding(y, torch.full_like(looked_up, torch.nan), module.lora_b_stacked)
    assert torch.equal(y, before)
    module.lora_b_stacked[1] = b[1]
    layer.load_slot(1, WeightMemory())
    layer.add_lora_embedding(y, looked_up, module.lora_b_stacked)
    assert torch.allclose(y[0], before[0] + b[1, 0] @ looked_up[0], atol=1e-5)


def the_index_tensors_are_those_of_vllm() -> None:
    made = wrapper()
    theirs = convert_mapping(MAPPING, IDS, SLOTS + 1, VOCABULARY, torch.device("cpu"))
    assert made.indices_len == theirs[4]
    ours = (
        made._token_lora_indices,
        made._sampler_indices,
        made._sampler_indices_padded,
        made._embeddings_indices,
    )
    for mine, their in zip(ours, theirs[:4], strict=True):
        assert torch.equal(mine[: len(their)], their)


def an_adapter_without_a_slot_is_an_error() -> None:
    with pytest.raises(KeyError, match="44"):
        wrapper().update_metadata(LoRAMapping((44,), (44,), is_prefill=True), IDS, 4, VOCABULARY)


def the_plugin_names_this_wrapper_to_the_platform() -> None:
    from vllm.platforms import current_platform

    register()
    register()
    assert current_platform.get_punica_wrapper() == PUNICA_WRAPPER


def a_linear_layer_gives_one_row_the_bits_that_it_has_in_a_batch() -> None:
    from vllm.model_executor.layers import utils

    for out, in_features in ((576, 576), (3072, 576), (576, 1536)):
        layer = torch.nn.Linear(in_features, out, bias=False, dtype=torch.bfloat16)
        layer.weight.requires_grad_(False)
        utils.dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
        rows = torch.randn(700, in_features).bfloat16()
        together = layer.cpu_linear(rows, layer.weight, None)
        for count in (1, 2, 4, 5, 33, 257):
            part = layer.cpu_linear(rows[:count], layer.weight, None)
            assert torch.equal(part, together[:count]), (out, in_features, count)
        alone = layer.cpu_linear(rows[3], layer.weight, None)
        assert torch.equal(alone, together[3])


if __name__ == "__main__":
    torch.manual_seed(0)
    with torch.inference_mode():
        for check in (
            linear_layers_give_each_row_its_own_adapter,
            embeddings_of_rows_without_an_adapter_are_untouched,
            sampled_logits_use_the_rows_that_are_sampled,
            prompt_logits_use_the_rows_of_the_view_that_is_passed,
            full_heads_replace_only_the_rows_of_their_adapters,
            a_bound_linear_layer_gives_each_row_its_own_adapter,
            a_base_layer_on_our_product_takes_its_adapters_in_one_pass,
            a_compiled_graph_gives_what_the_layer_gives,
            a_slot_whose_adapter_leaves_the_layer_alone_is_emptied,
            bound_logits_use_the_rows_that_are_sampled,
            bound_logits_of_another_type_than_the_adapters_are_exact_too,
            a_bound_embedding_computes_only_when_an_adapter_has_one,
            the_index_tensors_are_those_of_vllm,
            an_adapter_without_a_slot_is_an_error,
            the_plugin_names_this_wrapper_to_the_platform,
            a_linear_layer_gives_one_row_the_bits_that_it_has_in_a_batch,
        ):
            check()
            print(check.__name__, flush=True)
