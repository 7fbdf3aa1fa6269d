"""Checks of stackserve's LoRA on GPUs inside vLLM; prints the name of each that holds.

`cuda_wrapper_checks.py cpu` with TRITON_INTERPRET=1, or `cuda_wrapper_checks.py cuda`.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import vllm.config
import vllm.platforms
from vllm.lora.layers import LoRAMapping
from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
from vllm.lora.layers.logits_processor import LogitsProcessorWithLoRA
from vllm.lora.ops.triton_ops import LoRAKernelMeta, utils
from vllm.lora.punica_wrapper import punica_gpu
from vllm.utils.import_utils import resolve_obj_by_qualname

from stackserve.engine import compat, lora_choice, lora_cuda
from stackserve.engine.plugin import CUDA_PUNICA_WRAPPER, register
from stackserve_kernels.lora import LayerWeights, SliceWeights, WeightMemory
from stackserve_kernels.lora.reference import add_lora_reference
from stackserve_kernels.lora.selfcheck import Verdict, make_trials, what_is_wrong

DEVICE = sys.argv[1]
SLOTS, RANK, IN, OUTS, VOCABULARY = 3, 8, 32, (24, 16), 40
IDS: list[int | None] = [11, 22, 33]
TOKENS, SAMPLED = (22, 22, 0, 11, 0, 33, 33, 33), (22, 0, 33)
SLOT = {0: -1, 11: 0, 22: 1, 33: 2}
LORA_CONFIG = SimpleNamespace(
    max_loras=SLOTS,
    max_lora_rank=RANK,
    lora_dtype=torch.bfloat16,
    fully_sharded_loras=False,
    specialize_active_lora=False,
    enable_tower_connector_lora=False,
)
punica_gpu.LoRAKernelMeta = LoRAKernelMeta  # vLLM leaves it out where it finds no GPU


def wrapper() -> lora_cuda.TritonPunicaWrapper:
    return lora_cuda.TritonPunicaWrapper(64, 64, DEVICE, lora_config=LORA_CONFIG)


def step(made: Any, tokens: tuple[int, ...] = TOKENS, samples: tuple[int, ...] = SAMPLED) -> None:
    made.update_metadata(LoRAMapping(tokens, samples, is_prefill=True), IDS, SLOTS + 1, VOCABULARY)


def tensor(*sizes: int) -> torch.Tensor:
    return torch.randn(*sizes).to(DEVICE)


def linear(made: Any) -> Any:
    """One of vLLM's LoRA modules over a plain product, bound to the wrapper as vLLM binds it."""
    module = BaseLinearLayerWithLoRA.__new__(BaseLinearLayerWithLoRA)
    torch.nn.Module.__init__(module)
    weight = tensor(sum(OUTS), IN)
    module.base_layer = torch.nn.Module()
    module.base_layer.params_dtype = torch.float32
    module.base_layer.quant_method = SimpleNamespace(apply=lambda layer, x, bias: x @ weight.T)
    module.lora_config, module.output_slices = LORA_CONFIG, OUTS
    module.lora_a_stacked = tuple(tensor(SLOTS, 1, RANK, IN) for _ in OUTS)
    module.lora_b_stacked = tuple(tensor(SLOTS, 1, out, RANK) for out in OUTS)
    module.base_weight = weight
    module.set_mapping(made)
    return module


def load(module: Any, slot: int, rank: int) -> LayerWeights:
    """Write an adapter into a slot as vLLM does, then let the bound layer take it over."""
    slices = []
    for a, b in zip(_tuple(module.lora_a_stacked), _tuple(module.lora_b_stacked), strict=True):
        a[slot], b[slot] = 0, 0
        a[slot, 0, :rank] = tensor(rank, a.shape[-1])
        b[slot, 0, :, :rank] = tensor(b.shape[-2], rank)
        slices.append(SliceWeights(a[slot, 0, :rank].clone(), b[slot, 0, :, :rank].clone()))
    module.punica_wrapper.load_slot(slot, WeightMemory())
    return LayerWeights(tuple(slices))


def _tuple(stacked: Any) -> tuple[torch.Tensor, ...]:
    return (stacked,) if isinstance(stacked, torch.Tensor) else stacked


def loaded(made: Any, make: Callable[[Any], Any]) -> tuple[Any, list[LayerWeights]]:
    module = make(made)
    step(made)
    return module, [load(module, slot, rank) for slot, rank in enumerate((3, 8, 1))]


def expected(
    y: torch.Tensor, x: torch.Tensor, adapters: list[LayerWeights], ids: tuple[int, ...]
) -> torch.Tensor:
    outs = [each.b.shape[0] for each in adapters[0].slices if each is not None]
    return add_lora_reference(y, x, outs, adapters, [SLOT[i] for i in ids])


def a_linear_layer_gives_each_row_its_own_adapter() -> None:
    module, adapters = loaded(wrapper(), linear)
    x = tensor(len(TOKENS), IN)
    base = x @ module.base_weight.T
    y = module._apply_sync(x)
    assert torch.allclose(y, expected(base, x, adapters, TOKENS), atol=1e-4)
    without = [row for row, id_ in enumerate(TOKENS) if not id_]
    assert torch.equal(y[without], base[without])
    assert isinstance(module.punica_wrapper, lora_cuda.TritonLinear)


def rows_that_pad_a_graph_are_untouched() -> None:
    module, adapters = loaded(wrapper(), linear)
    x = tensor(len(TOKENS) + 5, IN)
    base = x @ module.base_weight.T
    assert torch.allclose(
        module._apply_sync(x), expected(base, x, adapters, (*TOKENS, 0, 0, 0, 0, 0)), atol=1e-4
    )


def a_compiled_graph_gives_what_the_layer_gives_and_does_not_name_it() -> None:
    made, graphs = wrapper(), []
    modules = [loaded(made, linear) for _ in range(2)]

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph.code)
        return graph.forward

    x = tensor(len(TOKENS), IN)
    for module, adapters in modules:
        torch._dynamo.reset()
        run = torch.compile(
            lambda x, m=module: m._apply_sync(x * 2), fullgraph=True, backend=backend
        )
        assert torch.equal(run(x), module._apply_sync(x * 2))
        want = expected(2 * x @ module.base_weight.T, 2 * x, adapters, TOKENS)
        assert torch.allclose(run(x), want, atol=1e-4)
    assert "add_lora_of" in graphs[0]
    assert graphs[0] == graphs[1]


def later_steps_use_the_same_buffers_for_other_mixes() -> None:
    made = wrapper()
    module, adapters = loaded(made, linear)
    before = [
        t.data_ptr() for plan in (made.tokens, made.samples) for t in (plan.table, plan.hidden)
    ]
    x = tensor(len(TOKENS), IN)
    for tokens in ((0,) * 8, (33, 11, 0, 0, 22, 11, 22, 22), (11,)):
        step(made, tokens, (tokens[-1],))
        rows = x[: len(tokens)]
        adapters[0] = load(module, 0, 5)
        want = expected(rows @ module.base_weight.T, rows, adapters, tokens)
        assert torch.allclose(module._apply_sync(rows), want, atol=1e-4)
    after = [
        t.data_ptr() for plan in (made.tokens, made.samples) for t in (plan.table, plan.hidden)
    ]
    assert before == after


def a_slot_of_zeros_is_empty_and_its_layer_still_launches() -> None:
    """vLLM's warm-up adapters are zeros; a graph captured with them must hold the launches."""
    module, _ = loaded(wrapper(), linear)
    for slot in range(SLOTS):
        load(module, slot, 0)
    x = tensor(len(TOKENS), IN)
    adapters = module.punica_wrapper.adapters
    assert adapters.is_empty
    with patch.object(adapters, "add_planned", wraps=adapters.add_planned) as launched:
        assert torch.equal(module._apply_sync(x), x @ module.base_weight.T)
    assert launched.call_count == 1


def loading_takes_no_memory_beyond_what_binding_took() -> None:
    module, _ = loaded(wrapper(), linear)
    table = module.punica_wrapper.adapters._entries
    before = table[:, :, :2].clone()
    for slot in range(SLOTS):
        load(module, slot, RANK)
    assert torch.equal(table[:, :, :2], before)
    assert all(each.untyped_storage().nbytes() == each[0].nbytes for each in module.lora_a_stacked)


def logits(made: Any) -> Any:
    module = LogitsProcessorWithLoRA.__new__(LogitsProcessorWithLoRA)
    torch.nn.Module.__init__(module)
    module.base_layer = SimpleNamespace(head_dtype=None)
    module.lora_a_stacked = tensor(SLOTS, 1, RANK, IN)
    module.lora_b_stacked = tensor(SLOTS, 1, VOCABULARY, RANK)
    module.set_mapping(made)
    return module


def logits_use_the_rows_that_are_sampled() -> None:
    module, adapters = loaded(wrapper(), logits)
    x = tensor(len(TOKENS), IN)[[1, 2, 7]]
    padded = tensor(3, VOCABULARY + 8)
    y, want = padded.clone(), expected(padded[:, :VOCABULARY], x, adapters, SAMPLED)
    module.punica_wrapper.add_lora_logits(y, x)
    assert torch.allclose(y[:, :VOCABULARY], want, atol=1e-4)
    assert torch.equal(y[:, VOCABULARY:], padded[:, VOCABULARY:])


def logits_of_a_prompt_use_the_rows_of_the_view_that_is_passed() -> None:
    module, adapters = loaded(wrapper(), logits)
    x, y = tensor(len(TOKENS), IN)[2:5], tensor(3, VOCABULARY)
    want = expected(y, x, adapters, TOKENS[2:5])
    module.punica_wrapper.add_lora_logits(y, x)
    assert torch.allclose(y, want, atol=1e-4)


def modules_of_another_type_or_kind_stay_with_vllm() -> None:
    made = wrapper()
    module = linear(made)
    module.base_layer.params_dtype = torch.float16
    assert made.for_layer(module) is made
    assert made.for_layer(torch.nn.Linear(2, 2)) is made
    head = logits(made)
    head.base_layer.head_dtype = torch.float64
    assert made.for_layer(head) is made


def engine_config(**more: Any) -> SimpleNamespace:
    parallel = SimpleNamespace(
        tensor_parallel_size=2, use_ubatching=False, prefill_context_parallel_size=1
    )
    model = SimpleNamespace(
        dtype=torch.bfloat16,
        is_moe=False,
        use_mla=False,
        enable_sleep_mode=False,
        hf_text_config=SimpleNamespace(intermediate_size=96),
        get_hidden_size=lambda: 64,
        get_head_size=lambda: 16,
        get_num_attention_heads=lambda parallel: 2,
        get_num_kv_heads=lambda parallel: 1,
    )
    config = {
        "lora_config": LORA_CONFIG,
        "parallel_config": parallel,
        "model_config": model,
        "cache_config": SimpleNamespace(kv_sharing_fast_prefill=False),
        "additional_config": {},
    }
    return SimpleNamespace(**(config | more))


@contextmanager
def deciding(config: Any, verdict: Verdict) -> Iterator[list[str]]:
    """A new process's choice, with a made-up check; gives what the log says."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("vllm.stackserve")
    log.setLevel(logging.INFO)  # vLLM sets its own as an engine starts
    log.addHandler(handler)
    try:
        with (
            patch.object(vllm.config, "get_current_vllm_config", lambda: config),
            patch.object(lora_choice, "choose_on_device", lambda *a, **k: verdict),
            patch.object(lora_choice, "_verdicts", {}),
        ):
            yield said
    finally:
        log.removeHandler(handler)


def a_yes_gives_our_wrapper_and_says_why_once() -> None:
    config = engine_config()
    with deciding(config, Verdict(True, "they are faster here", ())) as said:
        for _ in range(2):
            made = lora_cuda.make_wrapper(
                64, max_batches=64, device=DEVICE, lora_config=LORA_CONFIG
            )
            assert type(made) is lora_cuda.TritonPunicaWrapper
    assert said == ["stackserve: LoRA runs on our Triton kernels, because they are faster here"]
    assert config.additional_config == {"stackserve_lora": "triton"}


def a_no_gives_just_what_vllm_has_and_says_why() -> None:
    config = engine_config()
    with deciding(config, Verdict(False, "they are slower here", ())) as said:
        made = lora_cuda.make_wrapper(64, max_batches=64, device=DEVICE, lora_config=LORA_CONFIG)
        assert type(made) is punica_gpu.PunicaWrapperGPU
        module = linear(made)
    assert module.punica_wrapper is made
    assert said == ["stackserve: LoRA runs on vLLM's own kernels, because they are slower here"]
    assert config.additional_config == {}


def an_engine_that_cannot_be_read_gives_what_vllm_has() -> None:
    with deciding(object(), Verdict(True, "", ())) as said:
        made = lora_cuda.make_wrapper(64, max_batches=64, device=DEVICE, lora_config=LORA_CONFIG)
    assert type(made) is punica_gpu.PunicaWrapperGPU
    assert "because the choice failed: AttributeError: 'object'" in said[0]


def without_our_kernels_vllm_is_traced_as_ever() -> None:
    made = punica_gpu.PunicaWrapperGPU(64, 64, DEVICE, lora_config=LORA_CONFIG)
    module, seen = linear(made), []
    with patch.object(punica_gpu.PunicaWrapperGPU, "add_lora_linear", lambda self, y, x, *a: None):
        x = tensor(4, IN)
        run = torch.compile(
            module._apply_sync,
            fullgraph=True,
            backend=lambda g, i: seen.append(g.code) or g.forward,
        )
        assert torch.equal(run(x), x @ module.base_weight.T)
    assert "stackserve" not in seen[0]


def the_facts_are_those_of_the_engine() -> None:
    with deciding(engine_config(), Verdict(False, "", ())):
        facts = compat.lora_facts()
    assert [str(shape) for shape in facts.shapes] == [
        "64 to 32+16+16",
        "32 to 64",
        "64 to 48+48",
        "48 to 64",
    ]
    assert (facts.max_loras, facts.max_rank, facts.in_the_way) == (SLOTS, RANK, frozenset())
    odd = engine_config(additional_config=object())
    odd.model_config.is_moe, odd.parallel_config.use_ubatching = True, True
    odd.model_config.hf_text_config = object()
    with deciding(odd, Verdict(False, "", ())):
        facts = compat.lora_facts()
    assert facts.in_the_way == {"experts", "ubatching", "additional_config"}
    assert facts.in_the_way <= lora_choice.OBSTACLES.keys()
    assert facts.shapes == ()


def vllms_side_of_a_trial_is_right_and_forgotten() -> None:
    """On a CPU its two operators are stood in for by products over the same stacks."""

    def shrink(x: Any, a: Any, out: Any, slots: Any, *meta: Any) -> None:
        utils._LORA_A_PTR_DICT[(1,)] = ()
        for number, each in enumerate(a):
            out[number] = torch.einsum("ri,rki->rk", x.float(), each[slots.clamp(min=0), 0].float())

    def expand(h: Any, b: Any, y: Any, slots: Any, *meta: Any, **more: Any) -> None:
        first = 0
        for number, each in enumerate(b):
            delta = torch.einsum("rk,rok->ro", h[number], each[slots.clamp(min=0), 0].float())
            delta[slots < 0] = 0
            y[:, first : first + each.shape[2]] += delta.to(y.dtype)
            first += each.shape[2]

    shape = lora_choice.Shape(IN, OUTS)
    trials = make_trials([shape], 3, (8, 4), (1, 9), torch.bfloat16, torch.device(DEVICE))
    utils._LORA_A_PTR_DICT[(7,)] = ("kept",)
    on_cpu = patch.multiple(punica_gpu, create=True, lora_shrink=shrink, lora_expand=expand)
    stand_in = on_cpu if DEVICE == "cpu" else nullcontext()
    with stand_in, compat.forgetting_stacked_weights() as forget:

        def make(rows: int) -> Any:
            return punica_gpu.PunicaWrapperGPU(rows, rows, DEVICE, lora_config=LORA_CONFIG)

        side = lora_choice.vllm_side(RANK, make, forget)
        for trial in trials:
            run = side(trial)
            assert not utils._LORA_A_PTR_DICT
            assert "error" not in what_is_wrong(trial, run)
    assert utils._LORA_A_PTR_DICT.pop((7,)) == ("kept",)
    assert (1,) not in utils._LORA_A_PTR_DICT


def the_plugin_names_our_wrapper_to_cuda_and_to_no_other() -> None:
    for cuda in (True, False):

        class Platform:
            is_cpu = staticmethod(lambda: False)
            is_cuda = staticmethod(lambda on=cuda: on)
            get_punica_wrapper = classmethod(lambda cls: "theirs")

        with patch.object(vllm.platforms, "current_platform", Platform()):
            register()
            register()
            named = vllm.platforms.current_platform.get_punica_wrapper()
        assert named == (CUDA_PUNICA_WRAPPER if cuda else "theirs")
    assert resolve_obj_by_qualname(CUDA_PUNICA_WRAPPER) is lora_cuda.make_wrapper


def one_cuda_graph_serves_every_mix_of_adapters() -> None:
    """Captured, as vLLM does, with no adapters at all."""
    made = wrapper()
    module = linear(made)
    step(made, (0,) * 8, SAMPLED)
    x = tensor(len(TOKENS), IN)
    module._apply_sync(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = module._apply_sync(x)
    adapters = [load(module, slot, rank) for slot, rank in enumerate((3, 8, 1))]
    for tokens in (TOKENS, (0,) * 8, (33, 11, 0, 0, 22), (11,) * 8):
        step(made, tokens, SAMPLED)
        graph.replay()
        ids = tokens + (0,) * (len(x) - len(tokens))
        want = expected(x @ module.base_weight.T, x, adapters, ids)
        assert torch.allclose(y, want, atol=1e-3)


def checks() -> Iterator[Callable[[], None]]:
    yield a_linear_layer_gives_each_row_its_own_adapter
    yield rows_that_pad_a_graph_are_untouched
    yield a_compiled_graph_gives_what_the_layer_gives_and_does_not_name_it
    yield later_steps_use_the_same_buffers_for_other_mixes
    yield a_slot_of_zeros_is_empty_and_its_layer_still_launches
    yield loading_takes_no_memory_beyond_what_binding_took
    yield logits_use_the_rows_that_are_sampled
    yield logits_of_a_prompt_use_the_rows_of_the_view_that_is_passed
    yield modules_of_another_type_or_kind_stay_with_vllm
    yield a_yes_gives_our_wrapper_and_says_why_once
    yield a_no_gives_just_what_vllm_has_and_says_why
    yield an_engine_that_cannot_be_read_gives_what_vllm_has
    yield without_our_kernels_vllm_is_traced_as_ever
    yield the_facts_are_those_of_the_engine
    yield vllms_side_of_a_trial_is_right_and_forgotten
    yield the_plugin_names_our_wrapper_to_cuda_and_to_no_other
    if DEVICE == "cuda":
        yield one_cuda_graph_serves_every_mix_of_adapters


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    compat.bind_adapters_to_layers()
    with torch.inference_mode():
        for check in checks():
            torch.manual_seed(0)
            try:
                check()
            except Exception:  # noqa: BLE001  # the other checks say something too
                print(check.__name__, traceback.format_exc(), sep="\n", file=sys.stderr)
            else:
                print(check.__name__, flush=True)
