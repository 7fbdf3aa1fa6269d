from __future__ import annotations

import contextlib
import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackserve.runtimes.compression import deflate, inflate
from stackserve.runtimes.oip_errors import BadRequest, TooLarge

BODY = b'{"inputs": []}' * 100
LIMIT = 1 << 20


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


PACKED = {"gzip": gzip.compress(BODY), "deflate": zlib.compress(BODY)}


@pytest.mark.parametrize("encoding", ["gzip", "deflate", " GZip "])
def test_a_body_is_unpacked(encoding: str) -> None:
    assert inflate(PACKED[encoding.strip().lower()], encoding, LIMIT) == BODY


@given(st.binary())
def test_deflate_is_understood_without_the_header_of_zlib(body: bytes) -> None:
    assert inflate(raw_deflate(body), "deflate", LIMIT) == body


@given(st.lists(st.binary()), st.sampled_from(["gzip", "deflate"]))
def test_what_is_packed_is_unpacked_by_everybody(parts: list[bytes], encoding: str) -> None:
    packed = deflate(map(memoryview, parts), encoding)
    judge = gzip.decompress if encoding == "gzip" else zlib.decompress
    assert judge(packed) == inflate(packed, encoding, LIMIT) == b"".join(parts)


def test_a_body_may_be_as_large_as_the_limit_and_no_larger() -> None:
    assert inflate(PACKED["gzip"], "gzip", len(BODY)) == BODY
    with pytest.raises(TooLarge, match=f"more than {len(BODY) - 1} bytes"):
        inflate(PACKED["gzip"], "gzip", len(BODY) - 1)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_takes_no_more_memory_than_the_limit(encoding: str) -> None:
    bomb = deflate([bytes(LIMIT)] * 200, encoding)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            inflate(bomb, encoding, LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * LIMIT


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda packed: packed[:-1], "ends too early"),
        (lambda packed: b"", "ends too early"),
        (lambda packed: packed + b"\0", "Bytes follow"),
        (lambda packed: packed + packed, "Bytes follow"),
        (lambda packed: packed[:-4] + b"\0\0\0\0", "cannot be unpacked"),
    ],
)
def test_a_damaged_body_is_refused(encoding: str, change: object, told: str) -> None:
    assert callable(change)
    with pytest.raises(BadRequest, match=told):
        inflate(change(PACKED[encoding]), encoding, LIMIT)


@pytest.mark.parametrize("encoding", ["br", "gzip, deflate", "identity;q=1", "x" * 9999])
def test_another_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(BadRequest, match="send gzip, deflate or none"):
        inflate(BODY, encoding, LIMIT)


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_are_unpacked_or_refused(body: bytes, encoding: str) -> None:
    with contextlib.suppress(BadRequest, TooLarge):
        assert len(inflate(body, encoding, 1000)) <= 1000
