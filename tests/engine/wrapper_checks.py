"""Checks of `GroupedPunicaWrapper` against the reference; prints the name of each that holds."""

from __future__ import annotations

import torch
from vllm.lora.layers import LoRAMapping

from stackserve.engine.lora import GroupedPunicaWrapper
from stackserve.engine.plugin import PUNICA_WRAPPER, register
from stackserve_kernels.lora.reference import add_lora_reference

SLOTS, RANK, IN, OUT, VOCABULARY = 3, 4, 16, 12, 20
IDS = [11, 22, 33]
TOKENS = (22, 22, 0, 11, 0, 33, 33, 33)
SAMPLED = (22, 0, 33)
SLOT = {0: -1, 11: 0, 22: 1, 33: 2}


def wrapper() -> GroupedPunicaWrapper:
    made = GroupedPunicaWrapper(64, 64, "cpu")
    made.update_metadata(LoRAMapping(TOKENS, SAMPLED, is_prefill=True), IDS, SLOTS + 1, VOCABULARY)
    return made


def weights(out: int = OUT) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(SLOTS, 1, RANK, IN), torch.randn(SLOTS, 1, out, RANK)


def expected(
    y: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, ids: tuple[int, ...]
) -> torch.Tensor:
    return add_lora_reference(y, x, [a[:, 0]], [b[:, 0]], 1.0, [SLOT[i] for i in ids])  # fmt: skip


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


def the_plugin_names_this_wrapper_to_the_platform() -> None:
    from vllm.platforms import current_platform

    register()
    register()
    assert current_platform.get_punica_wrapper() == PUNICA_WRAPPER


def a_linear_layer_gives_one_row_the_bits_that_it_has_in_a_batch() -> None:
    from vllm import _custom_ops

    rows, weight = torch.randn(64, 1536).bfloat16(), torch.randn(576, 1536).bfloat16()
    layer = _custom_ops.create_onednn_mm(weight.t(), 32)
    together = _custom_ops.onednn_mm(layer, rows, None)
    for row in range(len(rows)):
        assert torch.equal(_custom_ops.onednn_mm(layer, rows[row], None), together[row])


if __name__ == "__main__":
    torch.manual_seed(0)
    for check in (
        linear_layers_give_each_row_its_own_adapter,
        embeddings_of_rows_without_an_adapter_are_untouched,
        sampled_logits_use_the_rows_that_are_sampled,
        prompt_logits_use_the_rows_of_the_view_that_is_passed,
        full_heads_replace_only_the_rows_of_their_adapters,
        the_plugin_names_this_wrapper_to_the_platform,
        a_linear_layer_gives_one_row_the_bits_that_it_has_in_a_batch,
    ):
        check()
        print(check.__name__, flush=True)
