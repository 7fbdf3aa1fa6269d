"""An adapter against its base: each rule, its code and what its message names."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from stackserve.adapters import AdapterLimits, BaseArchitecture, validate_adapter

EMBED, HEAD = "base_model.model.model.embed_tokens", "base_model.model.lm_head"


@pytest.fixture
def validate(base: BaseArchitecture, limits: AdapterLimits) -> Any:
    return lambda folder: validate_adapter(folder, base, limits)


def test_describes_an_adapter_that_passes(
    adapters: Any, validate: Any, base: BaseArchitecture
) -> None:
    adapter = validate(adapters.make())
    assert (adapter.rank, adapter.scalings, adapter.dtype) == (2, (2.0,), "F32")
    assert adapter.target_modules == ("q_proj", "v_proj")
    assert adapter.parameters == 2 * (2 * 8 + 8 * 2 + 2 * 8 + 4 * 2)
    assert adapter.size_bytes == sum(p.stat().st_size for p in adapter.folder.iterdir())
    assert adapter.base_fingerprint == base.fingerprint
    assert adapter.base_model_name == "someone/else"
    assert len(adapter.digest) == 64


def test_the_digest_depends_on_both_files_and_on_nothing_else(adapters: Any, validate: Any) -> None:
    one, same = adapters.make(), adapters.make()
    (same / "README.md").write_text("notes")
    assert validate(one).digest == validate(same).digest
    assert validate(adapters.make({"lora_alpha": 8})).digest != validate(one).digest


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_serves_each_float_dtype(adapters: Any, validate: Any, kit: Any, dtype: str) -> None:
    adapters.defaults = kit.default_tensors(dtype)
    assert validate(adapters.make()).dtype == dtype


def test_serves_mixed_dtypes(adapters: Any, validate: Any, kit: Any) -> None:
    assert validate(adapters.make(tensors=kit.pair(kit.Q0, dtype="BF16"))).dtype == "BF16+F32"


@pytest.mark.parametrize(
    "targets", ["all-linear", "(x+x+)+y", ["q_proj", "self_attn.v_proj"]]
)  # fmt: skip
def test_serves_lists_expressions_and_all_linear(
    adapters: Any, validate: Any, targets: Any
) -> None:
    assert validate(adapters.make({"target_modules": targets})).rank == 2


def test_serves_rslora_and_patterns(adapters: Any, validate: Any, kit: Any) -> None:
    adapter = validate(
        adapters.make(
            {
                "use_rslora": True,
                "rank_pattern": {"layers.0.self_attn.q_proj": 4},
                "alpha_pattern": {"v_proj": 2},
            },
            kit.pair(kit.Q0, rank=4),
        )
    )
    assert adapter.rank == 4
    assert adapter.scalings == pytest.approx((2 / 2**0.5, 2.0, 4 / 2**0.5))


def test_serves_some_layers_only(adapters: Any, validate: Any, kit: Any) -> None:
    adapters.defaults = kit.pair(kit.Q0)
    assert validate(adapters.make({"target_modules": ["q_proj"]})).target_modules == ("q_proj",)


def test_serves_the_embeddings_of_llama(adapters: Any, validate: Any, kit: Any) -> None:
    adapters.defaults = {
        f"{EMBED}.lora_embedding_A": kit.filled((2, kit.VOCABULARY)),
        f"{EMBED}.lora_embedding_B": kit.filled((kit.HIDDEN, 2)),
        f"{HEAD}.lora_A.weight": kit.filled((2, kit.HIDDEN)),
        f"{HEAD}.lora_B.weight": kit.filled((kit.VOCABULARY, 2)),
    }
    adapter = validate(adapters.make({"target_modules": ["embed_tokens", "lm_head"]}))
    assert adapter.target_modules == ("embed_tokens", "lm_head")


def test_refuses_tied_training_of_the_embeddings(
    adapters: Any, validate: Any, kit: Any, refused: Any
) -> None:
    assert validate(adapters.make({"ensure_weight_tying": True})).rank == 2
    adapters.defaults = {
        f"{HEAD}.lora_A.weight": kit.filled((2, kit.HIDDEN)),
        f"{HEAD}.lora_B.weight": kit.filled((kit.VOCABULARY, 2)),
    }
    config = {"target_modules": ["lm_head"], "ensure_weight_tying": True}
    with refused("unsupported_feature", "ensure_weight_tying", "True"):
        validate(adapters.make(config))


def test_refuses_a_linear_pair_on_the_input_embedding(
    adapters: Any, validate: Any, kit: Any, refused: Any
) -> None:
    adapters.defaults = {
        f"{EMBED}.lora_A.weight": kit.filled((2, kit.VOCABULARY)),
        f"{EMBED}.lora_B.weight": kit.filled((kit.HIDDEN, 2)),
    }
    with refused("tensor_name_invalid", "embed_tokens.lora_A.weight"):
        validate(adapters.make({"target_modules": ["embed_tokens"]}))


def test_refuses_a_base_whose_architecture_takes_no_adapters(
    adapters: Any, kit: Any, limits: AdapterLimits, tmp_path: Path, refused: Any
) -> None:
    base = BaseArchitecture.from_folder(
        kit.write_base(tmp_path / "base", {"architectures": ["GPT2LMHeadModel"]})
    )
    with refused("base_architecture_unsupported", "GPT2LMHeadModel"):
        validate_adapter(adapters.make(), base, limits)


def test_refuses_embeddings_where_the_engine_serves_none(
    adapters: Any, kit: Any, limits: AdapterLimits, tmp_path: Path, refused: Any
) -> None:
    base = BaseArchitecture.from_folder(
        kit.write_base(tmp_path / "base", {"architectures": ["MistralForCausalLM"]})
    )
    tensors = {
        f"{HEAD}.lora_A.weight": kit.filled((2, kit.HIDDEN)),
        f"{HEAD}.lora_B.weight": kit.filled((kit.VOCABULARY, 2)),
    }
    folder = adapters.make({"target_modules": ["q_proj", "v_proj", "lm_head"]}, tensors)
    with refused("module_not_served", "'lm_head'", "MistralForCausalLM"):
        validate_adapter(folder, base, limits)


# The folder and its files


def test_refuses_a_folder_that_is_none(adapters: Any, validate: Any, refused: Any) -> None:
    folder = adapters.make()
    for path in (folder / "nothing", folder / "adapter_config.json", Path("a\0b"), Path("\ud800")):
        with refused("folder_missing"):
            validate(path)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
class TestEachOfTheTwoFiles:
    def test_must_exist(self, adapters: Any, validate: Any, refused: Any, name: str) -> None:
        folder = adapters.make()
        (folder / name).unlink()
        with refused("file_missing", name):
            validate(folder)

    def test_is_not_a_link(self, adapters: Any, validate: Any, refused: Any, name: str) -> None:
        folder = adapters.make()
        (folder / name).rename(folder / "real")
        (folder / name).symlink_to(folder / "real")
        with refused("symlink", name):
            validate(folder)

    def test_is_not_a_folder(self, adapters: Any, validate: Any, refused: Any, name: str) -> None:
        folder = adapters.make()
        (folder / name).unlink()
        (folder / name).mkdir()
        with refused("not_a_regular_file", name):
            validate(folder)

    @pytest.mark.timeout(10)
    def test_is_not_a_pipe_and_never_waits_for_one(
        self, adapters: Any, validate: Any, refused: Any, name: str
    ) -> None:
        folder = adapters.make()
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with refused("not_a_regular_file", name):
            validate(folder)

    def test_is_not_a_socket(
        self, adapters: Any, validate: Any, refused: Any, name: str, monkeypatch: Any
    ) -> None:
        folder = adapters.make()
        (folder / name).unlink()
        monkeypatch.chdir(folder)  # a socket's path is limited to 108 bytes
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(name)
            with refused("not_a_regular_file", name):
                validate(folder)

    def test_is_not_empty(self, adapters: Any, validate: Any, refused: Any, name: str) -> None:
        folder = adapters.make()
        (folder / name).write_bytes(b"")
        code = "config_invalid" if name.endswith("json") else "weights_invalid"
        with refused(code, name):
            validate(folder)

    def test_may_be_unreadable(
        self, adapters: Any, validate: Any, refused: Any, name: str, monkeypatch: Any
    ) -> None:
        folder, real = adapters.make(), os.open

        def deny(path: Any, *args: Any, **kwargs: Any) -> int:
            if path == name:
                raise PermissionError(13, "Permission denied")
            return real(path, *args, **kwargs)

        monkeypatch.setattr(os, "open", deny)
        with refused("file_unreadable", name, "Permission denied"):
            validate(folder)

    def test_may_fail_while_it_is_read(
        self, adapters: Any, validate: Any, refused: Any, name: str, monkeypatch: Any
    ) -> None:
        folder, real = adapters.make(), os.pread

        def fail(fd: int, *args: Any) -> bytes:
            if os.readlink(f"/proc/self/fd/{fd}").endswith(name):
                raise OSError(5, "Input/output error")
            return real(fd, *args)

        monkeypatch.setattr(os, "pread", fail)
        code = "file_unreadable" if name.endswith("json") else "weights_invalid"
        with refused(code, name, "Input/output error"):
            validate(folder)


def test_refuses_any_link_in_the_folder(adapters: Any, validate: Any, refused: Any) -> None:
    folder = adapters.make()
    (folder / "README.md").symlink_to("/etc/hostname")
    with refused("symlink", "README.md"):
        validate(folder)


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth", "pkl", "ckpt", "BIN"])
def test_refuses_pickled_weights_beside_the_safetensors(
    adapters: Any, validate: Any, refused: Any, suffix: str
) -> None:
    folder = adapters.make()
    (folder / f"adapter_model.{suffix}").write_bytes(b"")
    with refused("pickle_weights", f"adapter_model.{suffix}"):
        validate(folder)


def test_ignores_files_that_no_engine_reads(adapters: Any, validate: Any) -> None:
    folder = adapters.make()
    for name in ("training_args.bin", "optimizer.pt", "tokenizer.json"):
        (folder / name).write_bytes(b"\x80\x04")
    (folder / "checkpoint-10").mkdir()
    assert validate(folder).rank == 2


def test_refuses_a_folder_of_a_thousand_files(adapters: Any, validate: Any, refused: Any) -> None:
    folder = adapters.make()
    for number in range(1000):
        (folder / str(number)).touch()
    with refused("too_many_files", "1000"):
        validate(folder)


def test_refuses_an_adapter_over_the_byte_limit(
    adapters: Any, base: BaseArchitecture, refused: Any
) -> None:
    folder = adapters.make()
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert validate_adapter(folder, base, AdapterLimits(16, size)).size_bytes == size
    with refused("adapter_too_large", str(size), str(size - 1)):
        validate_adapter(folder, base, AdapterLimits(16, size - 1))


def test_refuses_a_huge_config(adapters: Any, base: BaseArchitecture, refused: Any) -> None:
    folder = adapters.make()
    (folder / "adapter_config.json").write_bytes(b" " * (1 << 21))
    with refused("config_too_large", str(1 << 21)):
        validate_adapter(folder, base, AdapterLimits(16, 1 << 30))


# The tensors


def test_refuses_an_adapter_without_tensors(adapters: Any, validate: Any, refused: Any) -> None:
    adapters.defaults = {}
    with refused("weights_empty", "0 tensors"):
        validate(adapters.make())


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.../../../x",
        "base_model.model...x.lora_A.weight",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_C.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
        "base_model.model.model.embed_tokens.weight",
        "base_model.model.score.weight",
        "base_model.model.q_prój.lora_A.weight",
        "base_model.model..lora_A.weight",
    ],
)
def test_refuses_a_tensor_that_is_not_of_lora(
    adapters: Any, validate: Any, kit: Any, refused: Any, name: str
) -> None:
    with refused("tensor_name_invalid", ascii(name)):
        validate(adapters.make(tensors={name: kit.filled((2, 8))}))


def test_refuses_a_copy_of_the_bases_embedding(
    adapters: Any, validate: Any, kit: Any, refused: Any
) -> None:
    name = f"{EMBED}.base_layer.weight"
    with refused("base_weights_in_adapter", name, "save_embedding_layers=False"):
        validate(adapters.make(tensors={name: kit.filled((32, 8))}))


@pytest.mark.parametrize("dtype", ["F64", "I32"])
def test_refuses_a_dtype_that_is_not_served(
    adapters: Any, validate: Any, kit: Any, refused: Any, dtype: str
) -> None:
    with refused("dtype_unsupported", kit.key(kit.Q0, "B"), dtype):
        validate(adapters.make(tensors={kit.key(kit.Q0, "B"): kit.filled((8, 2), dtype=dtype)}))


@pytest.mark.parametrize("side", ["A", "B"])
def test_refuses_half_a_pair(
    adapters: Any, validate: Any, kit: Any, refused: Any, side: str
) -> None:
    with refused("lora_pair_incomplete", kit.Q0, f"lora_{side}"):
        validate(adapters.make(tensors={kit.key(kit.Q0, side): None}))


def fake_pair(kit: Any, module: str) -> dict[str, Any]:
    return {kit.key(module, "A"): kit.filled((2, 8)), kit.key(module, "B"): kit.filled((4, 2))}


@pytest.mark.parametrize(
    ("module", "code", "named"),
    [
        ("model.layers.2.self_attn.q_proj", "layer_out_of_range", "layer 2, but the base has layers 0 to 1"),
        ("model.layers.99.mlp.down_proj", "layer_out_of_range", "layer 99"),
        ("model.layers." + "9" * 300 + ".self_attn.q_proj", "layer_out_of_range", "999..."),
        ("model.layers.00.self_attn.q_proj", "module_not_in_base", "layers.00"),
        ("model.layers.0.self_attn.z_proj", "module_not_in_base", "z_proj"),
        ("layers.0.self_attn.q_proj", "module_not_in_base", "'layers.0.self_attn.q_proj'"),
        ("model.norm", "module_not_in_base", "model.norm"),
        ("model.layers.0.mlp.router", "module_not_served", "model.layers.0.mlp.router"),
    ],
)  # fmt: skip
def test_refuses_a_module_that_the_engine_would_drop(
    adapters: Any, validate: Any, kit: Any, refused: Any, module: str, code: str, named: str
) -> None:
    with refused(code, named):
        validate(adapters.make({"target_modules": "all-linear"}, fake_pair(kit, module)))


def test_refuses_tensors_of_a_module_that_is_no_target(
    adapters: Any, validate: Any, refused: Any
) -> None:
    with refused("module_not_targeted", "v_proj", "target_modules"):
        validate(adapters.make({"target_modules": ["q_proj", "proj"]}))


@pytest.mark.parametrize("target", ["k_proj", "no_such_module"])
def test_refuses_a_target_without_tensors(
    adapters: Any, validate: Any, refused: Any, target: str
) -> None:
    with refused("target_without_tensors", "target_modules", target):
        validate(adapters.make({"target_modules": ["q_proj", "v_proj", target]}))


def test_refuses_a_rank_that_is_not_the_one_of_the_tensors(
    adapters: Any, validate: Any, kit: Any, refused: Any
) -> None:
    with refused("rank_mismatch", "lora_A", "[2, 8]", "rank is not the 4"):
        validate(adapters.make({"r": 4}))
    with refused("rank_mismatch", "q_proj.lora_A", "[2, 8]", "the 4"):
        validate(adapters.make({"rank_pattern": {"layers.1.self_attn.q_proj": 4}}))
    with refused("rank_mismatch", "q_proj.lora_B", "[8, 3]"):
        validate(adapters.make(tensors={kit.key(kit.Q0, "B"): kit.filled((8, 3))}))


@pytest.mark.parametrize(
    ("side", "shape", "wanted"),
    [
        ("A", (2, 9), "[2, 8]"), ("B", (9, 2), "[8, 2]"), ("A", (2, 8, 1), "[2, 8]"),
        ("A", (16,), "[2, 8]"), ("B", (), "[8, 2]"), ("A", (0, 0), "[2, 8]"),
    ],
)  # fmt: skip
def test_refuses_a_shape_that_does_not_fit_the_base(
    adapters: Any, validate: Any, kit: Any, refused: Any, side: str, shape: Any, wanted: str
) -> None:
    name = kit.key(kit.Q0, side)
    with refused("shape_mismatch", name, str(list(shape)), wanted):
        validate(adapters.make(tensors={name: kit.filled(shape)}))


# The values


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize(
    ("value", "code", "named"),
    [
        (float("nan"), "value_nan", "NaN"),
        (-float("nan"), "value_nan", "NaN"),
        (float("inf"), "value_infinite", "infinite"),
        (-float("inf"), "value_infinite", "infinite"),
    ],
)
def test_refuses_values_that_are_not_finite(
    adapters: Any, validate: Any, kit: Any, refused: Any,
    dtype: str, value: float, code: str, named: str,
) -> None:  # fmt: skip
    values = [[0.5] * 8, [0.5] * 7 + [value]]
    with refused(code, kit.key(kit.Q0, "A"), named):
        validate(adapters.make(tensors={kit.key(kit.Q0, "A"): kit.raw(values, dtype)}))


@pytest.mark.parametrize(("value", "dtype"), [(1e38, "F32"), (-1e38, "BF16"), (65536, "BF16")])
def test_refuses_values_over_the_largest_of_fp16(
    adapters: Any, validate: Any, kit: Any, refused: Any, value: float, dtype: str
) -> None:
    with refused("value_too_large", kit.key(kit.Q0, "B"), "over 65504"):
        validate(adapters.make(tensors={kit.key(kit.Q0, "B"): kit.filled((8, 2), value, dtype)}))


def test_refuses_a_delta_that_would_overflow_fp16(
    adapters: Any, validate: Any, kit: Any, refused: Any
) -> None:
    large = {
        kit.key(kit.Q0, side): kit.filled(shape, 300.0)
        for side, shape in (("A", (2, 8)), ("B", (8, 2)))
    }
    with refused("delta_too_large", kit.Q0, "3.6e+05"):  # 300 * 300 * rank 2 * scale 2
        validate(adapters.make(tensors=large))
    scaled = {
        kit.key(kit.Q0, "B"): kit.filled((8, 2), 60.0),
        kit.key(kit.Q0, "A"): kit.filled((2, 8), 0.0),
    }
    with refused("delta_too_large", kit.Q0, "1.2e+05"):  # vLLM stores B times the scale
        validate(adapters.make({"lora_alpha": 4000}, scaled))


def test_finds_a_bad_value_beyond_the_first_chunk(
    adapters: Any, validate: Any, kit: Any, refused: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("stackserve.adapters.values.CHUNK_BYTES", 8)
    assert validate(adapters.make()).rank == 2
    values = [[0.5] * 8, [0.5] * 7 + [float("nan")]]
    with refused("value_nan", kit.key(kit.Q0, "A")):
        validate(adapters.make(tensors={kit.key(kit.Q0, "A"): kit.raw(values)}))


def test_an_untrained_adapter_of_zeros_passes(adapters: Any, validate: Any, kit: Any) -> None:
    zeros = {kit.key(kit.Q0, "B"): kit.filled((8, 2), 0.0)}
    assert validate(adapters.make(tensors=zeros)).rank == 2


def test_refuses_a_header_that_only_a_base_may_have(
    adapters: Any, base: BaseArchitecture, refused: Any
) -> None:
    folder = adapters.make()
    length = 5 << 20
    (folder / "adapter_model.safetensors").write_bytes(
        length.to_bytes(8, "little") + b"{}".ljust(length)
    )
    with refused("weights_invalid", str(length), str(4 << 20)):
        validate_adapter(folder, base, AdapterLimits(16, 1 << 30))
