"""No bytes on disk may raise anything but ArtifactRejected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stackserve.adapters import (
    AdapterLimits,
    AdapterStore,
    BaseArchitecture,
    Code,
    validate_adapter,
)
from stackserve.errors import ArtifactRejected

LIMITS = AdapterLimits(max_rank=16, max_bytes=1 << 20)
SETTINGS = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# Pieces that mean something to the parsers, beside arbitrary bytes.
PIECES = st.sampled_from(
    [b'"', b"{", b"}", b"[", b"]", b",", b":", b"0", b"9" * 30, b"-1", b"1e999", b"NaN", b"true",
     b"null", b"\\ud800", b"\\u0000", b"\xff", b"\0" * 8, b"[" * 2000, b"../", b"F64", b"\x80\x7f",
     b"\xc0\x7f", b".", b"_A"]
) | st.binary(max_size=12)  # fmt: skip
# (file, place, bytes removed there, bytes put there); the place is taken modulo the length
EDITS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 1 << 16), st.integers(0, 40), PIECES),
    min_size=1,
    max_size=4,
)


def refusal_of(action: Callable[[], object]) -> ArtifactRejected | None:
    try:
        action()
    except ArtifactRejected as refusal:
        return refusal
    return None


@pytest.fixture
def valid(adapters: Any) -> Path:
    folder: Path = adapters.make()
    return folder


def mutate(original: bytes, edits: list[tuple[int, int, int, bytes]], file: int) -> bytes:
    for which, place, removed, piece in edits:
        if which == file:
            at = place % (len(original) + 1)
            original = original[:at] + piece + original[at + removed :]
    return original


@SETTINGS
@given(edits=EDITS)
def test_mutated_files_are_accepted_or_refused(
    valid: Path, base: BaseArchitecture, adapters: Any, edits: Any
) -> None:
    folder = adapters.root / "mutated"
    folder.mkdir(exist_ok=True)
    for file, name in enumerate(("adapter_config.json", "adapter_model.safetensors")):
        (folder / name).write_bytes(mutate((valid / name).read_bytes(), edits, file))
    refusal = refusal_of(lambda: validate_adapter(folder, base, LIMITS))
    if refusal is None:
        assert AdapterStore(adapters.root / "store").import_adapter(folder, base, LIMITS)
    else:
        assert refusal.code in set(Code)
        assert refusal.message.isprintable()
        assert str(folder) not in refusal.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@SETTINGS
@given(data=st.data())
def test_any_value_in_any_config_field_is_accepted_or_refused(
    base: BaseArchitecture, adapters: Any, valid: Path, data: st.DataObject
) -> None:
    path = valid / "adapter_config.json"
    original = path.read_bytes()
    config = json.loads(original)
    config[data.draw(st.sampled_from(sorted(config)))] = data.draw(json_values)
    path.write_text(json.dumps(config))
    refusal = refusal_of(lambda: validate_adapter(valid, base, LIMITS))
    path.write_bytes(original)
    assert refusal is None or refusal.message.isprintable()


@SETTINGS
@given(edits=EDITS)
def test_mutated_bases_are_accepted_or_refused(
    kit: Any, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, edits: Any
) -> None:
    folder, pristine = tmp_path / "base", tmp_path / "pristine"
    if not pristine.exists():
        kit.write_base(pristine)
    folder.mkdir(exist_ok=True)
    for file, name in enumerate(("config.json", "model.safetensors")):
        (folder / name).write_bytes(mutate((pristine / name).read_bytes(), edits, file))
    refusal = refusal_of(lambda: BaseArchitecture.from_folder(folder))
    assert refusal is None or refusal.code.startswith("base_")
    assert refusal is None or refusal.message.isprintable()
