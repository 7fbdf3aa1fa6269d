"""The strict reader of safetensors headers."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from stackserve.adapters.codes import Code
from stackserve.adapters.safetensors_file import TensorInfo, read_header

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def file_of(header: Any, data: bytes = bytes(8), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def read(folder: Path, content: bytes) -> tuple[TensorInfo, ...]:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        return read_header(fd, name=path.name, code=Code.WEIGHTS_INVALID)
    finally:
        os.close(fd)


def test_reads_the_tensors_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [8, 16]},
        "a": F32,
    }
    content = file_of(header, bytes(16))
    start = len(content) - 16
    assert read(tmp_path, content) == (
        TensorInfo("a", "F32", (2,), start, start + 8),
        TensorInfo("b", "BF16", (2, 2), start + 8, start + 16),
    )


def test_accepts_a_header_padded_with_spaces_and_one_without_tensors(tmp_path: Path) -> None:
    assert len(read(tmp_path, file_of(json.dumps({"a": F32}).encode() + b"   "))) == 1
    assert read(tmp_path, file_of({}, b"")) == ()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        pytest.param(b"", "0 bytes", id="empty"),
        pytest.param(b"1234567", "7 bytes", id="seven bytes"),
        pytest.param(struct.pack("<Q", 0) + bytes(8), "header of 0 bytes", id="no header"),
        pytest.param(struct.pack("<Q", 1 << 40) + bytes(8), str(1 << 40), id="header bomb"),
        pytest.param(b"\xff" * 64, str((1 << 64) - 1), id="garbage"),
        pytest.param(file_of({}, b"", length=999), "truncated", id="header over the end"),
        pytest.param(file_of(b"\xff\xfe", b""), "header should be", id="not an object"),
        pytest.param(file_of(b"[]", b""), "header should be", id="a list"),
        pytest.param(file_of(b'{"\xff": 1}', b""), "UTF-8", id="not utf-8"),
        pytest.param(file_of(b'{"a": 1', b""), "JSON", id="cut json"),
        pytest.param(file_of(b'{"a":1,"a":2}', b""), "'a' appears twice", id="duplicate"),
        pytest.param(file_of(b'{"a":' + b"[" * 100_000, b""), "too deep", id="deep"),
        pytest.param(file_of(b'{"a":' + b"9" * 5000 + b"}", b""), "JSON", id="endless integer"),
        pytest.param(file_of({"__metadata__": {"a": 1}}, b""), "__metadata__", id="metadata"),
        pytest.param(file_of({"a": 7}), "'a' with 7", id="entry is no object"),
        pytest.param(file_of({"a": {**F32, "x": 1}}), "'x': 1", id="unknown key"),
        pytest.param(file_of({"": F32}), "''", id="no name"),
        pytest.param(file_of({"a\0b": F32}), "a\\x00b", id="nul in a name"),
        pytest.param(file_of(b'{"\\ud800": 1}', b""), "\\ud800", id="lone surrogate"),
        pytest.param(file_of({"a" * 513: F32}), "aaa...", id="long name"),
        pytest.param(file_of({"a": {**F32, "dtype": "F33"}}), "'F33'", id="dtype"),
        pytest.param(file_of({"a": {**F32, "dtype": ["F32"]}}), "['F32']", id="dtype is a list"),
        pytest.param(file_of({"a": {**F32, "shape": 2}}), "shape 2", id="shape is a number"),
        pytest.param(file_of({"a": {**F32, "shape": [-2]}}), "[-2]", id="negative shape"),
        pytest.param(file_of({"a": {**F32, "shape": [True]}}), "[True]", id="bool in a shape"),
        pytest.param(file_of({"a": {**F32, "shape": [2.0]}}), "[2.0]", id="float in a shape"),
        pytest.param(file_of({"a": {**F32, "shape": [1] * 9}}), "[1, 1", id="nine dimensions"),
        pytest.param(file_of({"a": {**F32, "shape": [1 << 62] * 8}}), "8 bytes", id="overflow"),
        pytest.param(file_of({"a": {**F32, "shape": [3]}}), "[3]", id="size"),
        pytest.param(file_of({"a": {**F32, "data_offsets": [8, 0]}}), "[8, 0]", id="reversed"),
        pytest.param(file_of({"a": {**F32, "data_offsets": [-8, 0]}}), "[-8, 0]", id="negative"),
        pytest.param(file_of({"a": {**F32, "data_offsets": [0]}}), "[0]", id="one offset"),
        pytest.param(
            file_of({"a": {**F32, "data_offsets": [1 << 63, (1 << 63) + 8]}}), "offsets", id="2**63"
        ),
        pytest.param(file_of({"a": F32, "b": F32}), "overlaps", id="overlap"),
        pytest.param(
            file_of({"a": {**F32, "data_offsets": [8, 16]}}, bytes(16)), "gap", id="gap at 0"
        ),
        pytest.param(file_of({"a": F32}, bytes(7)), "truncated", id="truncated"),
        pytest.param(file_of({"a": F32}, bytes(9)), "bytes of no tensor", id="trailing bytes"),
    ],
)  # fmt: skip
def test_refuses_a_defective_file(tmp_path: Path, refused: Any, content: bytes, named: str) -> None:
    with refused("weights_invalid", "adapter_model.safetensors", named):
        read(tmp_path, content)


@pytest.mark.parametrize("magic", [b"PK\x03\x04", b"\x80\x02", b"\x80\x04\x95"])
def test_names_a_pickle_under_a_safetensors_name(
    tmp_path: Path, refused: Any, magic: bytes
) -> None:
    with refused("pickle_weights", "adapter_model.safetensors"):
        read(tmp_path, magic + b"abcdefgh" * 8)


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    text = json.dumps({"a": F32}).encode().ljust(0x280)  # 0x280 is the bytes 80 02
    assert len(read(tmp_path, file_of(text))) == 1
