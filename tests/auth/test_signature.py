"""Signatures: those of the official SDK are right, and whatever is changed makes them wrong."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from stackserve.auth.signature import (
    SignedRequest,
    check_covers,
    check_date,
    check_digest,
    parse_signature,
    verify,
)
from stackserve.errors import NotAuthenticated
from tests.auth.conftest import HOST, NOW, Changed, User

GROUPS = "/20190101/modelGroups"
RECORDS = Path(__file__).parents[1] / "conformance" / "oci_exchanges.json"
SKEW = 300.0


def check(request: SignedRequest, user: User, body: bytes | None = None) -> None:
    """All that a server checks, at the time NOW."""
    signature = parse_signature(request.header("authorization"))
    check_covers(signature, request)
    check_date(signature, request, NOW, SKEW)
    verify(signature, request, user.key.public_key())
    if body is not None:
        check_digest(request, body)


def resigned(user: User, request: SignedRequest, covered: str) -> SignedRequest:
    """The request with a signature, made without the SDK, over whatever headers."""
    target = f"{request.method.lower()} {request.target}"
    values = {**dict(request.headers), "(request-target)": target}
    text = "\n".join(f"{name}: {values[name]}" for name in covered.split())
    value = base64.b64encode(user.key.sign(text.encode(), PKCS1v15(), SHA256())).decode()
    header = (
        f'Signature version="1",keyId="{user.key_id}",algorithm="rsa-sha256",'
        f'headers="{covered}",signature="{value}"'
    )
    kept = [each for each in request.headers if each[0] != "authorization"]
    return replace(request, headers=[*kept, ("authorization", header)])


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_a_request_without_a_body_is_right_as_the_sdk_signs_it(user: User, method: str) -> None:
    request = user.sign(method, f"{GROUPS}?compartmentId=c%20d&limit=1")
    check(request, user)
    assert not request.has_digest


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize("body", [b"", b'{"a": "\xc3\xa4"}'])
def test_a_request_with_a_body_is_right_as_the_sdk_signs_it(
    user: User, method: str, body: bytes
) -> None:
    request = user.sign(method, GROUPS, body, **{"content-length": str(len(body))})
    check(request, user, body)
    assert request.has_digest


@pytest.mark.parametrize("kind", ["models", "modelGroups"])
def test_an_upload_needs_no_digest(user: User, kind: str) -> None:
    request = user.sign("POST", f"/20190101/{kind}/ocid1/artifact?a=b", b"zip", upload=True)
    check(request, user)
    assert not request.has_digest


@pytest.mark.parametrize(
    "path",
    [GROUPS, f"{GROUPS}/g/artifact/content", "/x/20190101/models/m/artifact", "/v1/completions"],
)
def test_nothing_but_an_upload_may_lack_the_digest(user: User, path: str) -> None:
    request = user.sign("POST", path, b"zip", upload=True)
    with pytest.raises(
        NotAuthenticated, match=r"content-length, content-type, x-content-sha256 must"
    ):
        check(request, user)


@pytest.mark.parametrize(
    "change",
    [
        {"host": "elsewhere:8000"},
        {"date": "Wed, 25 Nov 2026 08:00:01 GMT"},
        {"content_type": "text/plain"},
        {"content_length": "4"},
        {"x_content_sha256": base64.b64encode(hashlib.sha256(b"{}").digest()).decode()},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_header_is_noticed(user: User, changed: Changed, change: dict[str, str]) -> None:
    request = user.sign("POST", GROUPS, b"{ }")
    with pytest.raises(NotAuthenticated, match="does not fit POST /20190101/modelGroups"):
        check(changed(request, **change), user)


@pytest.mark.parametrize(
    "change",
    [{"target": f"{GROUPS}/other"}, {"target": f"{GROUPS}?a=1"}, {"method": "PUT"}],
    ids=["path", "query", "method"],
)
def test_another_method_or_path_is_noticed(user: User, change: dict[str, Any]) -> None:
    with pytest.raises(NotAuthenticated, match="does not fit"):
        check(replace(user.sign("POST", GROUPS, b"{}"), **change), user)


def test_another_users_key_does_not_fit(user: User, stranger: User) -> None:
    with pytest.raises(NotAuthenticated, match="made with another key"):
        check(stranger.sign("GET", GROUPS), user)


def test_a_changed_body_is_noticed(user: User) -> None:
    request = user.sign("POST", GROUPS, b'{"a":1}')
    with pytest.raises(NotAuthenticated, match="the body, 7 bytes, does not have the SHA-256"):
        check(request, user, b'{"a":2}')


def test_the_digest_of_another_request_does_not_fit(user: User, changed: Changed) -> None:
    other = user.sign("POST", GROUPS, b'{"a":2}').header("x-content-sha256")
    with pytest.raises(NotAuthenticated, match="does not fit"):
        check(changed(user.sign("POST", GROUPS, b'{"a":1}'), x_content_sha256=other), user)


@pytest.mark.parametrize("seconds", [-SKEW, SKEW, 0])
def test_a_clock_may_be_off_by_the_skew(user: User, seconds: float) -> None:
    check(user.sign("GET", GROUPS, date=NOW + timedelta(seconds=seconds)), user)


@pytest.mark.parametrize("seconds", [-SKEW - 1, SKEW + 1])
def test_a_clock_that_is_off_by_more_is_told_both_times(user: User, seconds: float) -> None:
    request = user.sign("GET", GROUPS, date=NOW + timedelta(seconds=seconds))
    with pytest.raises(NotAuthenticated) as refused:
        check(request, user)
    assert request.header("date") in refused.value.message
    assert (
        "here it is Wed, 25 Nov 2026 08:00:00 GMT, more than 300 s apart" in refused.value.message
    )


@pytest.mark.parametrize("date", ["yesterday", "", "2026-11-25T08:00:00Z", "Wed, 99 Nov 2026"])
def test_a_date_that_is_none_is_refused(user: User, changed: Changed, date: str) -> None:
    with pytest.raises(NotAuthenticated, match="is not a date such as 'Wed, 25 Nov 2026"):
        check(changed(user.sign("GET", GROUPS), date=date), user)


def test_x_date_counts_where_it_is_signed(user: User, changed: Changed) -> None:
    request = changed(user.sign("GET", GROUPS), x_date="Wed, 25 Nov 2026 08:00:00 GMT", date=None)
    check(resigned(user, request, "x-date (request-target) host"), user)
    old = changed(request, x_date="Tue, 24 Nov 2026 08:00:00 GMT", date=request.header("x-date"))
    with pytest.raises(NotAuthenticated, match="dated Tue, 24 Nov"):
        check(resigned(user, old, "date x-date (request-target) host"), user)


def test_the_order_of_the_signed_headers_is_free(user: User) -> None:
    request = user.sign("GET", GROUPS, **{"opc-request-id": "1"})
    check(resigned(user, request, "host opc-request-id (request-target) date"), user)


@pytest.mark.parametrize(
    ("covered", "missing"),
    [
        ("(request-target) host", "^date, content-length"),
        ("date host", r"^\(request-target\), content-length"),
        ("date (request-target)", "^host, content-length"),
        ("date (request-target) host content-length content-type", "^x-content-sha256 must"),
        ("date (request-target) host content-length x-content-sha256", "^content-type must"),
        ("date (request-target) host content-type x-content-sha256", "^content-length must"),
    ],
)
def test_every_header_that_matters_must_be_signed(user: User, covered: str, missing: str) -> None:
    request = user.sign("POST", GROUPS, b"{}")
    with pytest.raises(NotAuthenticated, match=missing):
        check(resigned(user, request, covered), user)


@pytest.mark.parametrize("name", ["date", "host", "authorization", "x-content-sha256"])
def test_a_header_that_comes_twice_is_refused(user: User, name: str) -> None:
    request = user.sign("POST", GROUPS, b"{}")
    twice = replace(request, headers=[*request.headers, (name, request.header(name))])
    with pytest.raises(NotAuthenticated, match=f"the header {name} is there 2 times"):
        check(twice, user, b"{}")


def test_a_signed_header_that_is_missing_is_named(user: User, changed: Changed) -> None:
    with pytest.raises(NotAuthenticated, match="the header host is signed but missing"):
        check(changed(user.sign("GET", GROUPS), host=None), user)


GOOD = (
    'Signature algorithm="rsa-sha256",headers="date (request-target) host",'
    'keyId="t/u/f",signature="AAAA",version="1"'
)


@pytest.mark.parametrize(
    ("authorization", "why"),
    [
        ("", "expected `Signature"),
        ("Basic dTpw", "expected `Signature"),
        ("Signature", "has no algorithm"),
        ("Signature nonsense", "cannot be read"),
        (GOOD + ',version="1"', "cannot be read"),
        (GOOD.replace('version="1"', 'version="2"'), 'version="2"; only "1"'),
        (GOOD.replace("rsa-sha256", "none"), 'algorithm="none"; only "rsa-sha256"'),
        (GOOD.replace("rsa-sha256", "hmac-sha256"), "only"),
        (GOOD.replace("AAAA", "A!"), "not base64"),
        (GOOD.replace('keyId="t/u/f",', ""), "has no keyId"),
        (GOOD.replace("date (", "host ("), "names a header twice"),
    ],
)
def test_a_malformed_signature_is_refused(authorization: str, why: str) -> None:
    parse_signature(GOOD)
    with pytest.raises(NotAuthenticated) as refused:
        parse_signature(authorization)
    assert why in refused.value.message


LATIN = st.text(st.characters(max_codepoint=255), max_size=80)


@given(authorization=LATIN, parameters=st.dictionaries(
    st.sampled_from(["algorithm", "headers", "keyId", "signature", "version", "x"]), LATIN
), date=LATIN)  # fmt: skip
def test_whatever_is_sent_is_refused_and_breaks_nothing(
    user: User, authorization: str, parameters: dict[str, str], date: str
) -> None:
    given_ = {"algorithm": "rsa-sha256", "version": "1", "headers": "date (request-target) host"}
    written = ",".join(f'{name}="{value}"' for name, value in {**given_, **parameters}.items())
    for sent in (authorization, f"Signature {written}"):
        headers = [("authorization", sent), ("date", date), ("host", HOST)]
        with pytest.raises(NotAuthenticated):
            check(SignedRequest("GET", GROUPS, headers), user)


def recorded() -> list[dict[str, Any]]:
    records = json.loads(RECORDS.read_text())["records"]
    return [each["request"] for record in records for each in record["exchanges"]]


@pytest.mark.parametrize(
    "sent", recorded(), ids=lambda sent: f"{sent['method']}-{sent['path'][10:60]}"
)
def test_every_recorded_request_says_what_must_be_said(user: User, sent: dict[str, Any]) -> None:
    """The key that they were signed with is gone, so here they are signed again, otherwise unchanged."""
    request = SignedRequest(sent["method"], sent["path"], list(sent["headers"].items()))
    signature = parse_signature(request.header("authorization"))
    check_covers(signature, request)
    if request.has_digest:
        check_digest(request, b"" if sent["body"] is None else json.dumps(sent["body"]).encode())
    again = resigned(user, request, " ".join(signature.headers))
    verify(parse_signature(again.header("authorization")), again, user.key.public_key())
    with pytest.raises(NotAuthenticated, match="does not fit"):
        verify(signature, request, user.key.public_key())
