"""The generation thread: each row gets the answer that it would get alone, whatever runs beside it."""

from __future__ import annotations

import queue
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from stackserve.meters import AdapterMeters
from stackserve.protocol import AdapterSpec
from stackserve.runtimes.peft.adapters import AdapterRefused, load_adapter
from stackserve.runtimes.peft.batch import padding_is_exact
from stackserve.runtimes.peft.foundation import Foundation, load_foundation
from stackserve.runtimes.peft.generation import Generation, next_rows
from stackserve.runtimes.peft.residency import Adapters, UnknownModel
from stackserve.runtimes.peft.rows import Failure, Piece, Row
from stackserve.runtimes.peft.sampling import Sampling
from stackserve.runtimes.peft.text import Text
from tests.runtimes.peft.tiny_peft import VOCABULARY, greedy, load, with_peft, write_gpt_neo

PATIENCE = 60.0
GREEDY = Sampling(max_tokens=12, temperature=0)


@dataclass
class Asked:
    """A row, and what it told until its end."""

    row: Row
    told: queue.SimpleQueue[Piece | Failure]

    def next(self) -> Piece | Failure:
        return self.told.get(timeout=PATIENCE)

    def end(self) -> Piece | Failure:
        while isinstance(piece := self.next(), Piece) and piece.finish is None:
            pass
        return piece


class World:
    """A running generation thread."""

    def __init__(self, foundation: Foundation, slots: int = 2, rows: int = 32) -> None:
        self.foundation = foundation
        meters = AdapterMeters()
        load_one = partial(load_adapter, foundation.model, device=foundation.device)
        self.adapters = Adapters("base", foundation.model, slots, load_one, meters)
        self.generation = Generation(self.adapters, meters, rows, pads=True)
        self.generation.start()

    def ask(self, model: str, prompt: list[int], sampling: Sampling = GREEDY) -> Asked:
        told: queue.SimpleQueue[Piece | Failure] = queue.SimpleQueue()
        row = Row(
            model=model,
            prompt=tuple(prompt),
            sampling=sampling,
            text=Text(self.foundation.tokenizer, sampling.stop, include_stop=False),
            ends=self.foundation.ends,
            tell=told.put,
            generator=torch.Generator().manual_seed(sampling.seed or 0),
        )
        self.generation.answer(row)
        return Asked(row, told)

    def do(self, work: Callable[[], Any]) -> Any:
        return self.generation.between_steps(work).result(PATIENCE)

    def numbers(self, key: str) -> Any:
        snapshot = self.do(self.generation.snapshot)
        return next(each for each in snapshot.keys if each.key == key)

    def resident(self) -> set[str]:
        facts = self.do(self.generation.snapshot).residency.adapters
        return {each.key for each in facts if each.tier == "device"}


def spec(key: str, folder: Path, *, pinned: bool = False) -> AdapterSpec:
    return AdapterSpec(key, key, str(folder), pinned=pinned)


@pytest.fixture(scope="module")
def foundation(llama: Path) -> Foundation:
    return load_foundation(llama, "float32", None)


@pytest.fixture
def world(foundation: Foundation) -> World:
    return World(foundation)


def prompts(count: int) -> list[list[int]]:
    draw = random.Random(5)
    return [[draw.randrange(250) for _ in range(draw.randint(1, 30))] for _ in range(count)]


def test_a_greedy_answer_is_that_of_generate_alone_whoever_shares_the_batch(
    world: World, llama: Path, adapter: Callable[[str], Path]
) -> None:
    kinds = ("dora", "loha", "ia3", "modules-to-save")
    world.do(lambda: world.adapters.know(spec(kind, adapter(kind)) for kind in kinds))
    asked = [
        (kind, prompt, world.ask(kind, prompt))
        for prompt in prompts(5)
        for kind in ("base", *kinds)
    ]
    models = {kind: with_peft(llama, adapter(kind)) for kind in kinds} | {"base": load(llama)}
    for kind, prompt, each in asked:
        assert isinstance(each.end(), Piece)
        assert each.row.answer == greedy(models[kind], prompt, 12), kind


def test_an_architecture_that_vllm_lacks_is_served(tmp_path: Path) -> None:
    folder = write_gpt_neo(tmp_path / "neo")
    world = World(load_foundation(folder, "float32", None))
    model = load(folder)
    assert padding_is_exact(world.foundation.model, VOCABULARY)
    asked = [(prompt, world.ask("base", prompt)) for prompt in prompts(4)]
    for prompt, each in asked:
        each.end()
        assert each.row.answer == greedy(model, prompt, 12)


def test_in_bf16_scores_are_those_of_peft_but_for_rounding(
    llama: Path, adapter: Callable[[str], Path]
) -> None:
    base = load_foundation(llama, "bfloat16", None).model
    ids = torch.arange(97, 120)[None]
    with torch.inference_mode():
        half = load_adapter(base, adapter("dora"), torch.device("cpu"))(ids).logits.float()
        whole = with_peft(llama, adapter("dora"))(ids).logits
    assert (half - whole).abs().max() < 0.05 * whole.abs().max()


def test_a_step_of_each_batch_comes_in_turn(world: World) -> None:
    first = world.ask("base", [1, 2, 3], Sampling(max_tokens=200, temperature=0, ignore_eos=True))
    first.next()
    second = world.ask("base", [4, 5], Sampling(max_tokens=2, temperature=0, ignore_eos=True))
    second.end()
    assert not first.row.done
    first.end()
    assert len(first.row.answer) == 200


def test_a_seed_gives_one_answer_and_another_seed_another(world: World) -> None:
    def answer(seed: int) -> list[int]:
        each = world.ask("base", [1, 2], Sampling(max_tokens=20, temperature=2, seed=seed))
        each.end()
        return each.row.answer

    assert answer(1) == answer(1) != answer(2)


def test_who_is_cancelled_computes_no_more_and_others_go_on(world: World) -> None:
    long = Sampling(max_tokens=200, temperature=0, ignore_eos=True)
    gone = world.ask("base", [1, 2, 3], long)
    gone.next()
    gone.row.cancelled = True
    stays = world.ask("base", [1, 2, 3], GREEDY)
    stays.end()
    computed = len(gone.row.answer)
    world.ask("base", [1], GREEDY).end()
    assert len(gone.row.answer) == computed < 200
    assert world.numbers("base").finished["abort"] == 1


def test_the_adapter_used_longest_ago_makes_room(
    world: World, adapter: Callable[[str], Path]
) -> None:
    for key in ("lora", "dora", "loha"):
        world.do(partial(world.adapters.add, spec(key, adapter(key))))
    assert world.resident() == {"dora", "loha"}
    world.ask("dora", [1]).end()
    world.ask("lora", [1]).end()
    assert world.resident() == {"dora", "lora"}
    assert world.numbers("loha").evicted == {"device": 1}


def test_a_pinned_adapter_stays(world: World, adapter: Callable[[str], Path]) -> None:
    world.do(lambda: world.adapters.add(spec("lora", adapter("lora"), pinned=True)))
    for key in ("dora", "loha", "dora"):
        world.do(partial(world.adapters.know, [spec(key, adapter(key))]))
        world.ask(key, [1]).end()
    assert world.resident() == {"lora", "dora"}


def test_a_batch_waits_for_a_slot_and_then_is_answered(
    foundation: Foundation, adapter: Callable[[str], Path]
) -> None:
    world = World(foundation, slots=1)
    world.do(lambda: world.adapters.know(spec(k, adapter(k)) for k in ("lora", "dora")))
    long = world.ask("lora", [1], Sampling(max_tokens=100, temperature=0, ignore_eos=True))
    long.next()
    assert isinstance(world.ask("dora", [1]).end(), Piece)
    assert long.row.done


def test_a_bad_adapter_fails_its_requests_alone(
    world: World, adapter: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(adapter("lora"), tmp_path / "bad")
    (tmp_path / "bad" / "adapter_model.safetensors").write_bytes(b"nothing")
    world.do(lambda: world.adapters.know([spec("bad", tmp_path / "bad")]))
    asked = [world.ask(model, [1]) for model in ("base", "bad", "base")]
    ends = [each.end() for each in asked]
    assert isinstance(ends[1], Failure)
    assert ends[1].status == 500
    assert "cannot be loaded" in ends[1].message
    assert all(isinstance(end, Piece) for end in (ends[0], ends[2]))
    with pytest.raises(AdapterRefused):
        world.do(lambda: world.adapters.add(spec("worse", tmp_path / "bad")))
    assert world.numbers("bad").load_failures == 1


def test_scores_that_are_not_numbers_fail_their_row_alone(
    world: World, llama: Path, adapter: Callable[[str], Path]
) -> None:
    world.do(lambda: world.adapters.add(spec("lora", adapter("lora"))))
    broken = world.do(lambda: world.adapters.take("lora"))
    with torch.no_grad():
        broken.model.layers[0].self_attn.v_proj.lora_B["default"].weight.fill_(float("nan"))
    bad, good = world.ask("lora", [1, 2]), world.ask("base", [1, 2])
    assert bad.end() == Failure("the model computes NaN")
    good.end()
    assert good.row.answer == greedy(load(llama), [1, 2], 12)


def test_what_is_forgotten_is_unknown(world: World, adapter: Callable[[str], Path]) -> None:
    world.do(lambda: world.adapters.add(spec("lora", adapter("lora"))))
    world.do(lambda: world.adapters.forget("lora"))
    assert not world.adapters.knows("lora")
    assert world.ask("lora", [1]).end() == Failure("The model `lora` does not exist.", 404)
    with pytest.raises(UnknownModel):
        world.do(lambda: world.adapters.forget("lora"))


def test_requests_are_counted_by_key(world: World) -> None:
    world.ask("base", [1, 2, 3], Sampling(max_tokens=5, temperature=0, ignore_eos=True)).end()
    world.ask("base", [1, 2], Sampling(max_tokens=1, temperature=0, ignore_eos=True)).end()
    numbers = world.numbers("base")
    assert (numbers.arrived, numbers.prompt_tokens, numbers.generated_tokens) == (2, 5, 6)
    assert numbers.finished == {"length": 2}
    assert sum(numbers.first_token.counts) == 2
    assert sum(numbers.gap.counts) == 4


def test_a_key_is_counted_by_itself_before_anybody_asks_for_it(
    world: World, adapter: Callable[[str], Path]
) -> None:
    world.do(lambda: world.adapters.know([spec("lora", adapter("lora"))]))
    assert [world.numbers(key).arrived for key in ("base", "lora")] == [0, 0]


@pytest.mark.parametrize(("pads", "lengths"), [(True, [2, 3, 2]), (False, [2, 2])])
def test_a_batch_is_of_one_model_and_of_one_length_where_padding_would_change_it(
    world: World, pads: bool, lengths: list[int]
) -> None:
    def row(model: str, length: int) -> Row:
        text = Text(world.foundation.tokenizer, (), include_stop=False)
        told: queue.SimpleQueue[Piece | Failure] = queue.SimpleQueue()
        return Row(model, (1,) * length, GREEDY, text, frozenset(), told.put, None)

    waiting = [row("a", 2), row("b", 2), row("a", 3), row("a", 2)]
    batch = next_rows(waiting, 10, pads=pads)
    assert [len(each.prompt) for each in batch] == lengths
    assert {each.model for each in batch} == {"a"}
    assert len(next_rows(waiting, 1, pads=pads)) == 1
