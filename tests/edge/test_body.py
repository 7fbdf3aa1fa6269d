"""The request body: bounded, parsed as far as `model`, and otherwise left as it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackserve.edge.asgi import Message
from stackserve.edge.body import ClientGone, parse_body, read_body
from stackserve.errors import RequestRejected

LIMIT = 10


async def body_of(chunks: Sequence[bytes], **headers: str) -> bytes:
    """What is read of a request with these chunks; a list that ends early is a disconnect."""
    messages = iter(
        [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks[:-1]]
        + [{"type": "http.request", "body": chunk} for chunk in chunks[-1:]]
    )

    async def receive() -> Message:
        return next(messages, {"type": "http.disconnect"})

    raw = [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in headers.items()]
    return await read_body({"headers": raw}, receive, LIMIT)


@pytest.mark.parametrize("chunks", [[b"x" * LIMIT], [b"x"] * LIMIT, [b"", b"x" * LIMIT, b""]])
async def test_reads_up_to_the_limit_in_any_chunks(chunks: list[bytes]) -> None:
    assert await body_of(chunks) == b"x" * LIMIT


@pytest.mark.parametrize(
    ("chunks", "headers"),
    [
        ([], {"content_length": str(LIMIT + 1)}),
        ([b"x" * (LIMIT + 1)], {}),
        ([b"x"] * (LIMIT + 1), {}),
        ([b"x"] * (LIMIT + 1), {"content_length": "1"}),
        ([b"x"] * (LIMIT + 1), {"content_length": "²"}),
        ([b"x"] * (LIMIT + 1), {"content_length": "-1"}),
    ],
)
async def test_refuses_more_by_what_is_announced_and_by_what_comes(
    chunks: list[bytes], headers: dict[str, str]
) -> None:
    with pytest.raises(RequestRejected, match="max_body_mib") as caught:
        await body_of(chunks, **headers)
    assert caught.value.code == "body_too_large"


async def test_notices_that_the_client_has_gone() -> None:
    with pytest.raises(ClientGone):
        await body_of([])


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "gzip, identity"])
async def test_refuses_compressed_bodies(encoding: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        await body_of([b"{}"], content_encoding=encoding)
    assert caught.value.code == "unsupported_encoding"


async def test_takes_the_encoding_that_is_none() -> None:
    assert await body_of([b"{}"], content_encoding="identity") == b"{}"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="list"),
        pytest.param(b"null", id="null"),
        pytest.param(b'"model"', id="string"),
        pytest.param(b'{"model": "a"', id="cut"),
        pytest.param(b'{"model": "a"} {}', id="two"),
        pytest.param(b'\xef\xbb\xbf{"model": "a"}', id="byte order mark"),
        pytest.param('{"model": "a"}'.encode("utf-16"), id="utf-16"),
        pytest.param(b'{"model": "a", "x": NaN}', id="nan"),
        pytest.param(b'{"model": "a", "x": Infinity}', id="infinity"),
        pytest.param(b"{'model': 'a'}", id="python"),
        pytest.param(b'{"model": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="deep"),
        pytest.param(b'{"model": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="deep model"),
        pytest.param(b'{"model": "\\ud800"}', id="lone surrogate"),
        pytest.param(b'{"model": "a", "x": "\\ud800"}', id="lone surrogate elsewhere"),
    ],
)
def test_refuses_what_is_not_a_json_object(body: bytes) -> None:
    with pytest.raises(RequestRejected) as caught:
        parse_body(body)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize(
    "body", ["{}", '{"Model": "a"}', '{"model": null}', '{"model": 1}', '{"model": ["a"]}']
)
def test_requires_a_model_that_is_a_string(body: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        parse_body(body.encode())
    assert (caught.value.code, caught.value.param) == ("model_required", "model")


@pytest.mark.parametrize(
    ("body", "relayed"),
    [
        ('{"x":1.50e2,"model":"a"}', '{"x":1.50e2,"model":"w"}'),
        ('{"model":"a","x":[ 1 ,2]}', '{"model":"w","x":[ 1 ,2]}'),
        ('{"model":"a","x":"\\u00e9é"}', '{"model":"w","x":"\\u00e9é"}'),
        ('{"model":"a","x":123456789012345678901234567890}', '{"model":"w","x":123456789012345678901234567890}'),
        ('{"mod\\u0065l":"\\u0061"}', '{"model":"w"}'),
        ('{"model":"a","x":{"model":"base"}}', '{"model":"w","x":{"model":"base"}}'),
    ],
)  # fmt: skip
def test_changes_nothing_but_the_model(body: str, relayed: str) -> None:
    parsed = parse_body(body.encode())
    assert parsed.model == "a"
    assert parsed.with_model("w").decode() == relayed


def test_a_repeated_model_cannot_smuggle_another_past_the_routing() -> None:
    parsed = parse_body(b'{"model":"a","model":"b"}')
    assert parsed.model == "b"
    assert parsed.with_model("w") == b'{"model":"w"}'


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(max_examples=50)
@given(st.dictionaries(st.text(), json_values), st.text(), st.booleans())
def test_any_other_field_means_the_same_to_the_worker(
    fields: dict[str, Any], name: str, ascii_only: bool
) -> None:
    body = json.dumps({**fields, "model": "a"}, ensure_ascii=ascii_only).encode()
    relayed = json.loads(parse_body(body).with_model(name))
    assert relayed == {**fields, "model": name}
