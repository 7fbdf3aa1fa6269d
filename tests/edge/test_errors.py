"""Every domain error has its look on the wire, as an answer and as an event."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from stackserve.edge.errors import KINDS, STATUS_OF_CODE, answer, event
from stackserve.errors import (
    ArtifactRejected,
    CatalogError,
    ConfigError,
    EngineFailed,
    GroupNotReady,
    MemberRefused,
    NotAuthenticated,
    Overloaded,
    RequestRejected,
    RolloutFailed,
    ShuttingDown,
    StackserveError,
    StoreUnavailable,
    TookTooLong,
    UnknownDeployment,
    UnknownModel,
)

NEVER_ANSWERED = {ConfigError, ArtifactRejected}
"""Raised while a server starts, when nobody has asked anything."""

OF_CONTROL_PLANE = {
    CatalogError,
    RolloutFailed,
    StoreUnavailable,
    *CatalogError.__subclasses__(),
}
"""Answered in OCI's shape, see stackserve/oci/errors.py, or told by a work request."""


def classes(root: type[StackserveError]) -> Iterator[type[StackserveError]]:
    for each in root.__subclasses__():
        yield each
        yield from classes(each)


def test_every_error_that_a_client_can_meet_has_a_kind() -> None:
    ours = {each for each in classes(StackserveError) if each.__module__ == "stackserve.errors"}
    assert set(KINDS) == ours - NEVER_ANSWERED - OF_CONTROL_PLANE


@pytest.mark.parametrize(
    ("error", "status", "code", "param"),
    [
        (NotAuthenticated("m"), 401, "not_authenticated", None),
        (UnknownModel("m"), 404, "model_not_found", "model"),
        (MemberRefused("m"), 404, "model_refused", "model"),
        (RequestRejected("m"), 400, "invalid_request", None),
        (RequestRejected("m", code="invalid_json", param="x"), 400, "invalid_json", "x"),
        (GroupNotReady("m"), 503, "group_not_ready", None),
        (ShuttingDown("m"), 503, "shutting_down", None),
        (Overloaded("m"), 429, "overloaded", None),
        (UnknownDeployment("m"), 404, "deployment_not_found", None),
        (TookTooLong("m"), 504, "timeout", None),
        (EngineFailed("m"), 502, "engine_failed", None),
        (StackserveError("m"), 500, "internal_error", None),
        *((RequestRejected("m", code=c), s, c, None) for c, s in STATUS_OF_CODE.items()),
    ],
    ids=lambda value: value.code if isinstance(value, StackserveError) else "",
)
def test_an_error_is_the_same_as_answer_and_as_event(
    error: StackserveError, status: int, code: str, param: str | None
) -> None:
    told = answer(error)
    payload = json.loads(told.body)["error"]
    assert told.status == status
    assert (payload["message"], payload["code"], payload["param"]) == ("m", code, param)
    name, data, *end = event(error).split(b"\n")
    assert (name, end) == (b"event: error", [b"", b""])
    frame = json.loads(data.removeprefix(b"data: "))
    assert frame["error"] == payload
    assert (frame["type"], frame["code"], frame["message"]) == ("error", code, "m")


@pytest.mark.parametrize(
    "error", [GroupNotReady("m", retry_after=7), ShuttingDown("m"), Overloaded("m")]
)
def test_what_passes_has_a_time_to_come_back(error: StackserveError) -> None:
    assert int(dict(answer(error).headers)["retry-after"]) > 0


def test_what_does_not_pass_has_none() -> None:
    assert "retry-after" not in dict(answer(UnknownModel("m")).headers)


def test_a_message_with_line_breaks_stays_one_event() -> None:
    raw = event(EngineFailed("one\n\ntwo"))
    assert raw.count(b"\n\n") == 1
    assert json.loads(raw.split(b"data: ")[1])["message"] == "one\n\ntwo"
