"""Exported programs: every way to run code while they are read is closed, and damage is refused."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stackserve.runtimes import pt2_archive
from stackserve.runtimes.base import ModelFiles, ModelRefused
from stackserve.runtimes.pt2_program import checked_program, is_size
from stackserve.runtimes.torch import TorchRuntime
from tests.runtimes.payload import Payload
from tests.runtimes.pt2_files import (
    Entries,
    archive_of,
    entries_of,
    inputs_of,
    net_file,
    refusal,
    saved,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


@pytest.fixture(scope="module")
def good() -> bytes:
    return net_file()


def pickled_tensors(entries: Entries, payload: bytes, config: str, kind: str) -> None:
    name = f"archive/data/{config}"
    value = json.loads(entries[name])
    first = next(iter(value["config"].values()))
    first["use_pickle"] = True
    entries[f"archive/data/{kind}/{first['path_name']}"] = payload
    entries[name] = json.dumps(value).encode()


def pickled_object(entries: Entries, payload: bytes, prefix: str) -> None:
    name = "archive/data/constants/model_constants_config.json"
    value = json.loads(entries[name])
    next(iter(value["config"].values()))["path_name"] = f"{prefix}0"
    entries[f"archive/data/constants/{prefix}0"] = payload
    entries[name] = json.dumps(value).encode()


PICKLES: dict[str, Callable[[Entries, bytes], Any]] = {
    "weights": lambda entries, payload: pickled_tensors(
        entries, payload, "weights/model_weights_config.json", "weights"
    ),
    "constants": lambda entries, payload: pickled_tensors(
        entries, payload, "constants/model_constants_config.json", "constants"
    ),
    "custom objects": lambda entries, payload: pickled_object(entries, payload, "custom_obj_"),
    "opaque objects": lambda entries, payload: pickled_object(entries, payload, "opaque_obj_"),
    "older weights": lambda entries, payload: entries.update(
        {"archive/data/weights/model.pt": payload}
    ),
    "older constants": lambda entries, payload: entries.update(
        {"archive/data/constants/model.pt": payload}
    ),
    "the form of torch 2.7": lambda entries, payload: entries.update(
        {"archive/serialized_state_dict.pt": payload, "archive/version": b"8.9"}
    ),
    "a compiled model": lambda entries, payload: entries.update(
        {"archive/data/aotinductor/model/model.so": payload}
    ),
}


def torch_pickle(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": value}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("place", PICKLES)
def test_a_pickle_is_refused_and_its_payload_never_runs(
    tmp_path: Path, good: bytes, place: str
) -> None:
    trace = tmp_path / "trace"
    make = pickle.dumps if place == "opaque objects" else torch_pickle
    entries = entries_of(good)
    PICKLES[place](entries, make(Payload(trace)))
    assert refusal(saved(tmp_path / "model", archive_of(entries))).code == "unsafe_format"
    assert not trace.exists()


@pytest.mark.parametrize("place", ["weights", "constants", "opaque objects", "older weights"])
def test_the_payloads_would_run_if_somebody_vouched_for_the_file(
    tmp_path: Path, good: bytes, place: str
) -> None:
    trace = tmp_path / "trace"
    make = pickle.dumps if place == "opaque objects" else torch_pickle
    entries = entries_of(good)
    PICKLES[place](entries, make(Payload(trace)))
    files = ModelFiles(saved(tmp_path / "model", archive_of(entries)), allow_unsafe=True)
    with pytest.raises(ModelRefused):
        TorchRuntime().load(files)
    assert trace.exists()


def test_sample_inputs_are_pickled_in_every_file_and_never_read(
    tmp_path: Path, good: bytes
) -> None:
    trace = tmp_path / "trace"
    entries = entries_of(good)
    entries["archive/data/sample_inputs/model.pt"] = torch_pickle(Payload(trace))
    model = TorchRuntime().load(ModelFiles(saved(tmp_path / "model", archive_of(entries))))
    assert model.infer(inputs_of(2), ["y"])["y"].shape == (2, 3)
    assert not trace.exists()


def changed(entries: Entries, change: Callable[[dict[str, Any]], Any]) -> None:
    program = json.loads(entries["archive/models/model.json"])
    change(program)
    entries["archive/models/model.json"] = json.dumps(program).encode()


def graph(program: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = program["graph_module"]["graph"]
    return found


def rename(program: dict[str, Any], code: str) -> None:
    text = json.dumps(program).replace('"gelu"', json.dumps(code))
    program.clear()
    program.update(json.loads(text))


def set_size(program: dict[str, Any], code: str) -> None:
    graph(program)["tensor_values"]["x"]["sizes"][0] = {"as_expr": {"expr_str": code, "hint": None}}


def set_tree(program: dict[str, Any], kind: str, context: str) -> None:
    tree = [1, {"type": kind, "context": context, "children_spec": []}]
    program["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps(tree)


def touch(trace: Path) -> str:
    return f"__import__('pathlib').Path({str(trace)!r}).touch()"


PROGRAMS: dict[str, Callable[[dict[str, Any], Path], Any]] = {
    "a target outside of the operators": lambda program, trace: graph(program)["nodes"][-1].update(
        target="torch.os.system",
        inputs=[{"name": "", "arg": {"as_string": f"touch {trace}"}, "kind": 1}],
    ),
    "an operator that opens files": lambda program, trace: graph(program)["nodes"][-1].update(
        target="torch.ops.aten.from_file.default"
    ),
    "an operator as an argument": lambda program, trace: graph(program)["nodes"][-1][
        "inputs"
    ].append({"name": "", "arg": {"as_operator": "torch.os.system"}, "kind": 1}),
    "a size that is evaluated": lambda program, trace: set_size(program, touch(trace)),
    "a name that is written into source": lambda program, trace: rename(
        program, f"gelu = {touch(trace)}; gelu"
    ),
    "a type whose module is imported": lambda program, trace: set_tree(
        program, "collections.defaultdict", "{}"
    ),
    "an enumeration whose module is imported": lambda program, trace: set_tree(
        program, "builtins.dict", '{"__enum__": true, "fqn": "antigravity:x", "name": "y"}'
    ),
    "a string where a number belongs": lambda program, trace: graph(program)["tensor_values"]["x"][
        "sizes"
    ][0].update(as_int=touch(trace)),
}


@pytest.mark.parametrize("place", PROGRAMS)
def test_code_in_the_program_is_refused_and_never_runs(
    tmp_path: Path, good: bytes, place: str
) -> None:
    trace = tmp_path / "trace"
    entries = entries_of(good)
    changed(entries, lambda program: PROGRAMS[place](program, trace))
    found = refusal(saved(tmp_path / "model", archive_of(entries)))
    assert found.code == "unsafe_format"
    assert "allow_unsafe_formats" in found.message
    assert not trace.exists()


def test_guards_are_code_and_are_dropped(tmp_path: Path, good: bytes) -> None:
    trace = tmp_path / "trace"
    entries = entries_of(good)
    changed(entries, lambda program: program.update(guards_code=[touch(trace)]))
    model = TorchRuntime().load(ModelFiles(saved(tmp_path / "model", archive_of(entries))))
    model.infer(inputs_of(1), ["y"])
    assert not trace.exists()


@pytest.mark.parametrize(
    "size",
    [
        "Symbol('s77', positive=True, integer=True)",
        "Max(Integer(1), FloorDiv(Symbol('s24', integer=True), Integer(2)))",
        "Mul(Integer(2), Pow(Symbol('s34'), Integer(2)))",
        "2*s0 + 1",
    ],
)
def test_a_size_of_symbols_and_numbers_is_read(size: str) -> None:
    assert is_size(size)


@pytest.mark.parametrize(
    "size",
    [
        "9**9**9",
        "Pow(Integer(9), Integer(99999999))",
        "Pow(Pow(Integer(9), Integer(16)), Integer(16))",
        "s0.__class__",
        "Symbol('s0')._hash()",
        "Symbol('exec')",
        "(lambda: 0)()",
        "[s0 for s0 in s1]",
        "Lambda(s0, s0)",
        "-" * 3999 + "1",
        "s0\n!",
    ],
)
def test_a_size_of_anything_else_is_not(size: str) -> None:
    assert not is_size(size)


def twice(content: bytes) -> bytes:
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/models/model.json", b"{}")
    return buffer.getvalue()


def with_flags(content: bytes, flags: int) -> bytes:
    """The first entry of the list says that it is encrypted."""
    at = int.from_bytes(content[-6:-2], "little") + 8
    return content[:at] + flags.to_bytes(2, "little") + content[at + 2 :]


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda good: b"",
    "garbage": lambda good: b"PK\x03\x04" + b"garbage" * 100,
    "cut short": lambda good: good[: len(good) // 2],
    "without its list": lambda good: good[:-300],
    "an entry there twice": twice,
    "an encrypted entry": lambda good: with_flags(good, 1),
    "compressed": lambda good: archive_of(entries_of(good), zipfile.ZIP_DEFLATED),
    "two folders": lambda good: archive_of(entries_of(good) | {"other/models/model.json": b"{}"}),
    "a way out": lambda good: archive_of(entries_of(good) | {"archive/../../x": b""}),
    "no program": lambda good: archive_of({"archive/archive_format": b"pt2"}),
    "a program that is no JSON": lambda good: archive_of(
        entries_of(good) | {"archive/models/model.json": b"[" * 100_000}
    ),
    "another program": lambda good: archive_of(
        entries_of(good) | {"archive/models/model.json": b'{"graph_module": 3}'}
    ),
    "weights of another size": lambda good: archive_of(
        entries_of(good) | {"archive/data/weights/weight_0": b"abc"}
    ),
    "big-endian": lambda good: archive_of(entries_of(good) | {"archive/byteorder": b"big"}),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_damaged_file_is_refused(tmp_path: Path, good: bytes, damage: str) -> None:
    assert refusal(saved(tmp_path, BROKEN[damage](good))).code == "model_unreadable"


def test_a_list_of_entries_beyond_measure_is_refused_before_it_is_read(
    tmp_path: Path, good: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pt2_archive, "MOST_DIRECTORY", 100)
    monkeypatch.setattr(zipfile.ZipFile, "__init__", None)
    assert refusal(saved(tmp_path, good)).code == "model_unreadable"


def test_a_file_cut_anywhere_is_refused(tmp_path: Path, good: bytes) -> None:
    for length in range(0, len(good), 997):
        assert refusal(saved(tmp_path, good[:length])).code == "model_unreadable"


def strings_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is a string, by keys and places."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from strings_of(inner, (*path, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from strings_of(inner, (*path, place))
    elif isinstance(value, str):
        yield path


def test_no_string_of_a_program_can_be_code(tmp_path: Path, good: bytes) -> None:
    trace = tmp_path / "trace"
    program = checked_program(entries_of(good)["archive/models/model.json"], "model.pt2")
    places = list(strings_of(program))
    assert len(places) > 100
    for place in places:
        inner = program
        for key in place[:-1]:
            inner = inner[key]
        before, inner[place[-1]] = inner[place[-1]], touch(trace)
        entries = entries_of(good) | {"archive/models/model.json": json.dumps(program).encode()}
        assert refusal(saved(tmp_path / "model", archive_of(entries))).code == "unsafe_format", (
            place
        )
        inner[place[-1]] = before
    assert not trace.exists()
