"""A bad flag ends in one sentence on standard error, which names flag, value and remedy; exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.lora_kernels import options as kernels
from benchmarks.lora_tax import options as tax


@pytest.mark.parametrize(
    ("parse", "arguments", "named"),
    [
        (tax.parse, ["--ranks", "0"], ("--ranks", "'0'", "from 1 to 512")),
        (tax.parse, ["--ranks", "8,513"], ("--ranks", "'513'", "from 1 to 512, or 'mixed'")),
        (tax.parse, ["--adapters", "17"], ("--adapters", "'17'", "from 1 to 16")),
        (tax.parse, ["--targets", "base,vlm"], ("--targets", "'vlm'", "stackserve")),
        (tax.parse, ["--phase", "decoding"], ("--phase", "'decoding'", "decode, prefill")),
        (tax.parse, ["--rounds", "many"], ("--rounds", "'many'", "from 1 to 1000")),
        (tax.parse, ["--out", __file__], ("--out", __file__, "name a folder")),
        (tax.parse, ["--out", f"{__file__}/x"], ("--out", __file__, "name a folder")),
        (kernels.parse, ["--shapes", "gpt"], ("--shapes", "'gpt'", "smollm2.qkv")),
        (kernels.parse, ["--rows", ""], ("--rows", "''", "from 1")),
        (kernels.parse, ["--contenders", "vllm"], ("--contenders", "'vllm'", "torch, cpu")),
    ],
)
def test_a_bad_flag_is_refused_in_one_sentence(
    parse: object, arguments: list[str], named: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.count("\n") == 1
    assert all(part in said for part in named)


def test_the_baseline_is_measured_though_it_was_not_named() -> None:
    options = tax.parse(
        ["--targets", "stackserve,half", "--ranks", "mixed,8", "--adapters", "4,4,1"]
    )
    assert [target.name for target in options.targets] == ["base", "stackserve", "half"]
    assert [(each.name, each.slot_rank) for each in options.ranks] == [("mixed", 64), ("8", 8)]
    assert options.adapters == (4, 1)


def test_smoke_is_small_but_flags_beside_it_hold(tmp_path: Path) -> None:
    smoke, chosen = (
        tax.parse(["--smoke"]),
        tax.parse(["--smoke", "--rounds", "4", "--out", str(tmp_path)]),
    )
    assert smoke.rounds < tax.parse([]).rounds
    assert len(smoke.ranks) == len(smoke.adapters) == 1
    assert (chosen.rounds, chosen.out) == (4, tmp_path)
