"""Events on their way through, cut into any chunks."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackserve.edge import streaming
from stackserve.edge.streaming import EventStream, EventTooLarge

lines = st.lists(st.binary(min_size=1).map(lambda b: b.replace(b"\n", b"")), min_size=1).filter(all)
events = st.lists(lines.map(lambda each: b"\n".join(each) + b"\n\n"))


@given(events, st.binary().map(lambda b: b.replace(b"\n", b"")), st.data())
def test_passes_on_all_whole_events_and_never_ends_inside_one(
    whole: list[bytes], rest: bytes, data: st.DataObject
) -> None:
    sent = b"".join(whole) + rest
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)))))
    stream = EventStream()
    passed = b""
    ends = {0} | {len(b"".join(whole[:n])) for n in range(len(whole) + 1)}
    for start, end in pairwise([0, *cuts, len(sent)]):
        passed += stream.whole_events(sent[start:end])
        assert len(passed) in ends
    assert passed == b"".join(whole)
    assert stream.unfinished == bool(rest)


def test_an_event_goes_on_as_soon_as_it_is_whole() -> None:
    stream = EventStream()
    assert stream.whole_events(b"data: 1\n") == b""
    assert stream.whole_events(b"\ndata: 2") == b"data: 1\n\n"
    assert stream.whole_events(b"\n\n") == b"data: 2\n\n"


@pytest.mark.parametrize(
    ("chunks", "saw"),
    [
        ([b'data: {"error": {"code": 500}}\n\n'], True),
        ([b'data: {"er', b'ror": 1}\n\n'], True),
        ([b'data: {"error": 1'], False),
        ([b'data: {"choices": [{"delta": {"content": "data: {\\"error\\""}}]}\n\n'], False),
    ],
)
def test_sees_the_engines_own_errors(chunks: list[bytes], saw: bool) -> None:
    stream = EventStream()
    for chunk in chunks:
        stream.whole_events(chunk)
    assert stream.saw_error is saw


def test_an_event_that_never_ends_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "MAX_EVENT_BYTES", 10)
    stream = EventStream()
    stream.whole_events(b"x" * 10)
    with pytest.raises(EventTooLarge):
        stream.whole_events(b"x")
