"""The scan of a .pt2 archive, which torch.export would read with pickle in eight places.

Those are: a weight or constant whose configuration says use_pickle; weights or constants in the older
form (data/weights/model.pt); custom and opaque objects among the constants; sample inputs; weights of
compiled models. Compiled models are libraries that are loaded as they are, besides. None of them is passed
on: what torch reads is a new archive, made of the entries that were checked, so that it reads no byte
that was not, even if the file changes meanwhile or two readers of zip files disagree about it.
"""

from __future__ import annotations

import json
import os
import re
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from stackserve.runtimes.base import ModelRefused
from stackserve.runtimes.pt2_program import check, checked_program, read_json

PROGRAM = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
SAMPLE_INPUTS = "data/sample_inputs/model.pt"

MOST_ENTRIES = 20_000
MOST_DIRECTORY = 16 << 20
"""Bytes: Python reads the whole list of a zip file before anything can be counted."""
MOST_JSON = 64 << 20

PAYLOAD = re.compile(r"data/(weights/weight|constants/tensor)_\d{1,7}")
DROPPED = re.compile(
    r"\.data/[\w.\-]{1,60}|extra/.{1,200}|byteorder|archive_format|archive_version"
)
NATIVE = ("data/aotinductor", "data/executorch", "data/mtia", "xl_model_weights")
ITEM_SIZES = {
    **{1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 9: 4, 10: 8, 11: 16, 12: 1, 13: 2},
    **{28: 2, 29: 1, 30: 1, 31: 1, 32: 1, 33: 1, 34: 4, 35: 8},
}
"""Bytes by torch's numbers of the types (torch._export.serde.schema.ScalarType)."""


def scanned_entries(path: Path) -> dict[str, bytes]:
    """What a new archive is made of: entries by name, without the folder at the top. All in memory.
    Raises ModelRefused.
    """
    try:
        with path.open("rb") as file:
            check_directory(file, path.name)
            with zipfile.ZipFile(file) as archive:
                infos = checked_infos(archive, path.name, os.fstat(file.fileno()).st_size)
                wanted = {name: archive.read(info) for name, info in infos.items()}
    except ModelRefused:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError) as error:
        raise unreadable(path.name, "no zip file, or cut short") from error
    return checked_entries(wanted, path.name)


def unreadable(file: str, why: str) -> ModelRefused:
    return ModelRefused(
        "model_unreadable", f"{file} cannot be read ({why}); export it again with torch.export.save"
    )


def unsafe(file: str, entry: str, why: str) -> ModelRefused:
    return ModelRefused(
        "unsafe_format",
        f"{file} holds {entry[:80]!r}, {why}; save the model as ONNX or safetensors, or set "
        "allow_unsafe_formats if you made the file yourself",
    )


def check_directory(file: BinaryIO, name: str) -> None:
    """Refuse a zip file whose list of entries is beyond all measure, before it is read."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 65_557))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + 22 != len(tail):  # torch writes no comment behind it
        raise unreadable(name, "no zip file, or cut short")
    length = struct.unpack_from("<L", tail, at + 12)[0]
    if length == 0xFFFFFFFF or tail[at - 20 : at - 16] == b"PK\x06\x07":
        record = tail.rfind(b"PK\x06\x06", 0, at)
        if record < 0 or len(tail) < record + 48:
            raise unreadable(name, "its list of entries is damaged")
        length = max(struct.unpack_from("<Q", tail, record + 40)[0], length % 0xFFFFFFFF)
    if length > MOST_DIRECTORY:
        raise unreadable(name, "its list of entries is too long")
    file.seek(0)


def checked_infos(archive: zipfile.ZipFile, file: str, size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries to read, by name without the folder at the top. torch stores them uncompressed, so
    together they cannot be larger than the file: there is nothing to unpack, and no zip bomb.
    """
    infos = archive.infolist()
    if len(infos) > MOST_ENTRIES or sum(info.file_size for info in infos) > size:
        raise unreadable(file, "it claims more than it holds")
    found: dict[str, zipfile.ZipInfo] = {}
    tops = {info.filename.partition("/")[0] for info in infos}
    for info in infos:
        name = info.filename.partition("/")[2]
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise unreadable(file, f"{info.filename[:80]!r} is compressed")
        if info.flag_bits & 0x41:
            raise unreadable(file, f"{info.filename[:80]!r} is encrypted")
        if len(tops) != 1 or not name or ".." in name.split("/") or "\\" in name or "\0" in name:
            raise unreadable(file, f"{info.filename[:80]!r} is no name of an entry")
        if name in found:
            raise unreadable(file, f"{info.filename[:80]!r} is there twice")
        found[name] = info
    for name in found:
        check_kind(name, file)
    return {
        name: info
        for name, info in found.items()
        if name == "byteorder" or not (DROPPED.fullmatch(name) or name == SAMPLE_INPUTS)
    }


def check_kind(name: str, file: str) -> None:
    if name.startswith(NATIVE):
        raise unsafe(file, name, "compiled code that would run as it is")
    known = name in {PROGRAM, WEIGHTS, CONSTANTS, SAMPLE_INPUTS}
    if not (known or PAYLOAD.fullmatch(name) or DROPPED.fullmatch(name)):
        raise unsafe(file, name, "which torch would read with pickle or not at all")


def checked_entries(entries: dict[str, bytes], file: str) -> dict[str, bytes]:
    """With the JSON checked and written anew, and sample inputs, which are pickled, left empty."""
    if entries.pop("byteorder", b"little") != b"little":
        raise unreadable(file, "its numbers are big-endian")
    absent = {PROGRAM, WEIGHTS, CONSTANTS} - entries.keys()
    if absent:
        raise unreadable(file, f"it has no {min(absent)}")
    for name in (PROGRAM, WEIGHTS, CONSTANTS):
        if len(entries[name]) > MOST_JSON:
            raise unreadable(file, f"{name} is too long")
    checked: dict[str, Any] = {PROGRAM: checked_program(entries[PROGRAM], file)}
    used: set[str] = set()
    for name in (WEIGHTS, CONSTANTS):
        checked[name] = checked_payloads(entries, name, file)
        folder = name.rpartition("/")[0]
        used |= {f"{folder}/{each['path_name']}" for each in checked[name]["config"].values()}
    payloads = {name: content for name, content in entries.items() if name in used}
    written = {name: json.dumps(value).encode() for name, value in checked.items()}
    return {**written, SAMPLE_INPUTS: b"", **payloads}


def checked_payloads(entries: dict[str, bytes], name: str, file: str) -> dict[str, Any]:
    """The configuration of weights or constants: raw bytes only, as large as they say."""
    config = read_json(entries[name], file)
    folder = name.rpartition("/")[0]
    try:
        for tensor, payload in config["config"].items():
            path = f"{folder}/{payload['path_name']}"
            if payload["use_pickle"] is not False:
                raise unsafe(file, path, "a pickle")
            if not PAYLOAD.fullmatch(path):
                raise unsafe(file, path, "a pickled object")
            if path not in entries or not fits(payload["tensor_meta"], len(entries[path])):
                raise unreadable(file, f"{tensor[:60]!r} has other bytes than its shape says")
            check({tensor: {**payload, "path_name": None}}, "", file, 0)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise unreadable(file, f"{name} is damaged") from error
    return {"config": config["config"]}


def fits(meta: dict[str, Any], size: int) -> bool:
    """Whether a tensor lies within `size` bytes."""
    sizes = [int(each["as_int"]) for each in meta["sizes"]]
    strides = [int(each["as_int"]) for each in meta["strides"]]
    offset = int(meta["storage_offset"]["as_int"])
    if len(sizes) != len(strides) or min([*sizes, *strides, offset], default=0) < 0:
        return False
    if 0 in sizes:
        return True
    last = offset + sum((n - 1) * stride for n, stride in zip(sizes, strides, strict=True))
    return (last + 1) * ITEM_SIZES[meta["dtype"]] <= size
