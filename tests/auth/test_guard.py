"""The guard: who is let in, what an application hears of them, and what the others are told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stackserve.auth.authenticator import Authenticator, open_authenticator
from stackserve.auth.keys import read_keys
from stackserve.auth.new_key import NewKey, new_key
from stackserve.auth.signature import SignedRequest
from stackserve.edge.guard import Guard, guarded
from stackserve.server_settings import AuthSettings, ServerSettings
from tests.auth.conftest import HOST, NOW, USER, Changed, User

GROUPS = "/20190101/modelGroups"
CHAT = "/v1/chat/completions"
LIMIT = 100
SKEW = 300.0


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers who the caller is and what was sent, then waits until the client is gone."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message.get("more_body", False)
    heard = {"principal": scope["state"]["principal"], "body": body.decode("latin-1")}
    answer = json.dumps(heard).encode()
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def unguarded(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def alice() -> NewKey:
    return new_key("alice")


def behind(app: ASGIApp, auth: AuthSettings) -> httpx.AsyncClient:
    guard = Guard(app, Authenticator(auth, read_keys(auth, Path)), LIMIT, now=lambda: NOW)
    return httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url=f"http://{HOST}")


@pytest.fixture
def client(user: User, alice: NewKey, tmp_path: Path) -> httpx.AsyncClient:
    """Of a server that takes signatures of `user`, and the bearer key of `alice`."""
    return behind(echo, user.settings(tmp_path, bearer_keys=(alice.settings,)))


async def send(client: httpx.AsyncClient, request: SignedRequest, body: bytes = b"") -> httpx.Response:  # fmt: skip
    """Exactly these headers, in this order."""
    headers = [(name.encode(), value.encode("latin-1")) for name, value in request.headers]
    built = client.build_request(request.method, request.target, content=body)
    built.headers = httpx.Headers(headers)
    return await client.send(built)


def refusal(response: httpx.Response) -> str:
    """The message of a 401, whose form is checked."""
    told = response.json()
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/json"
    assert told["code"] == "NotAuthenticated"
    return str(told["message"])


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_who_signs_is_known_by_their_user_ocid(
    client: httpx.AsyncClient, user: User, method: str
) -> None:
    response = await send(client, user.sign(method, f"{GROUPS}/a%2Fb?limit=1&name=x%20y"))
    assert response.json() == {"principal": USER, "body": ""}


@pytest.mark.parametrize("body", [b"", b'{"a": 1}', b"x" * LIMIT])
async def test_the_application_gets_the_body_that_was_signed(
    client: httpx.AsyncClient, user: User, body: bytes
) -> None:
    request = user.sign("POST", GROUPS, body, **{"content-length": str(len(body))})
    response = await send(client, request, body)
    assert response.json() == {"principal": USER, "body": body.decode()}


async def test_a_body_that_comes_in_parts_is_put_together(user: User, tmp_path: Path) -> None:
    auth = user.settings(tmp_path)
    guard = Guard(echo, Authenticator(auth, read_keys(auth, Path)), LIMIT, now=lambda: NOW)
    request = user.sign("POST", GROUPS, b"one two")
    parts = [b"one", b" ", b"two"]
    answer = await drive(guard, request, [{"type": "http.request", "body": each, "more_body": each != b"two"} for each in parts])  # fmt: skip
    assert json.loads(answer[1]["body"])["body"] == "one two"


async def test_an_upload_is_handed_on_as_it_comes_over_the_limit_too(
    client: httpx.AsyncClient, user: User
) -> None:
    file = b"\xff" * (LIMIT * 3)
    request = user.sign("POST", "/20190101/models/m/artifact", file, upload=True)
    response = await send(client, request, file)
    assert response.json() == {"principal": USER, "body": file.decode("latin-1")}


async def test_who_has_a_bearer_key_is_known_by_its_name(
    client: httpx.AsyncClient, alice: NewKey
) -> None:
    for scheme in ("Bearer", "bearer"):
        headers = {"authorization": f"{scheme} {alice.key}"}
        response = await client.post(CHAT, headers=headers, content=b"x" * (LIMIT * 2))
        assert response.json()["principal"] == "alice"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_health_and_metrics_are_open(user: User, tmp_path: Path, path: str) -> None:
    open_to_all = behind(unguarded, user.settings(tmp_path))
    assert (await open_to_all.get(path)).status_code == 204


@pytest.mark.parametrize("path", ["/", "/livez/", "/livez/x", "//livez", "/LIVEZ", "/v1/models", GROUPS, "/nowhere"])  # fmt: skip
async def test_everything_else_is_not(client: httpx.AsyncClient, path: str) -> None:
    message = refusal(await client.get(f"http://{HOST}{path}"))
    assert message == (
        "there is no authorization header; sign the request as OCI's clients do, or send "
        "`Authorization: Bearer <key>`"
    )


async def test_a_changed_body_does_not_reach_the_application(
    client: httpx.AsyncClient, user: User
) -> None:
    request = user.sign("POST", GROUPS, b'{"a": 1}')
    message = refusal(await send(client, request, b'{"a": 2}'))
    assert "does not have the SHA-256" in message


async def test_a_body_behind_a_signed_get_is_nobodys(client: httpx.AsyncClient, user: User) -> None:
    """It is handed on, as an upload is: operations of these methods read no body."""
    response = await send(client, user.sign("GET", GROUPS), b"added")
    assert response.status_code == 200


async def test_a_signature_for_one_request_does_not_open_another(
    client: httpx.AsyncClient, user: User
) -> None:
    request = user.sign("GET", f"{GROUPS}/a")
    for change in ({"target": f"{GROUPS}/b"}, {"target": f"{GROUPS}/a?x=1"}, {"method": "DELETE"}):
        assert "does not fit" in refusal(await send(client, replace(request, **change)))


async def test_a_huge_body_is_refused_when_the_limit_is_passed(user: User, tmp_path: Path) -> None:
    auth = user.settings(tmp_path)
    guard = Guard(echo, Authenticator(auth, read_keys(auth, Path)), LIMIT, now=lambda: NOW)
    endless = [{"type": "http.request", "body": b"x" * LIMIT, "more_body": True}] * 50
    request = user.sign("POST", CHAT, b"x" * 5000)
    answer = await drive(guard, request, endless)
    assert answer[0]["status"] == 413
    told = json.loads(answer[1]["body"])
    assert told["code"] == "PayloadTooLarge"
    assert told["error"]["code"] == "body_too_large"
    assert len(endless) == 48, "it read no further than the limit"


async def test_nothing_is_read_of_a_stranger(stranger: User, user: User, tmp_path: Path) -> None:
    auth = user.settings(tmp_path)
    guard = Guard(echo, Authenticator(auth, read_keys(auth, Path)), LIMIT, now=lambda: NOW)
    unread: list[Message] = [{"type": "http.request", "body": b"{}", "more_body": False}]
    answer = await drive(guard, stranger.sign("POST", GROUPS, b"{}"), unread)
    assert answer[0]["status"] == 401
    assert len(unread) == 1


async def test_a_client_that_leaves_in_its_body_is_not_answered(user: User, tmp_path: Path) -> None:
    auth = user.settings(tmp_path)
    guard = Guard(echo, Authenticator(auth, read_keys(auth, Path)), LIMIT, now=lambda: NOW)
    left: list[Message] = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]  # fmt: skip
    assert await drive(guard, user.sign("POST", GROUPS, b"{}"), left) == []


async def test_the_application_hears_when_the_client_leaves_later(
    user: User, tmp_path: Path
) -> None:
    heard: list[str] = []

    async def listens(scope: Scope, receive: Receive, send: Send) -> None:
        heard.extend([(await receive())["type"], (await receive())["type"]])

    auth = user.settings(tmp_path)
    guard = Guard(listens, Authenticator(auth, read_keys(auth, Path)), LIMIT, now=lambda: NOW)
    body = {"type": "http.request", "body": b"{}", "more_body": False}
    await drive(guard, user.sign("POST", GROUPS, b"{}"), [body, {"type": "http.disconnect"}])
    assert heard == ["http.request", "http.disconnect"]


async def test_a_websocket_is_closed(user: User, tmp_path: Path) -> None:
    auth = user.settings(tmp_path)
    guard = Guard(echo, Authenticator(auth, read_keys(auth, Path)), LIMIT)
    sent: list[Message] = []

    async def keep(message: Message) -> None:
        sent.append(message)

    await guard({"type": "websocket", "path": "/livez"}, _nothing, keep)
    assert [each["type"] for each in sent] == ["websocket.close"]


async def test_a_client_cannot_say_who_it_is(client: httpx.AsyncClient, alice: NewKey) -> None:
    headers = {"authorization": f"Bearer {alice.key}", "principal": "root", "x-principal": "root"}
    assert (await client.post(CHAT, headers=headers)).json()["principal"] == "alice"


@pytest.mark.parametrize(
    ("authorization", "why"),
    [
        ("Bearer", "the bearer key is not known here"),
        ("Bearer sk-stackserve-wrong", "the bearer key is not known here"),
        ("Bearer \xe4", "the bearer key is not known here"),
        ("Basic YTpi", "this kind of authorization is not taken here; sign the request"),
        ("", "this kind of authorization is not taken here"),
        ("Signature x", "the authorization header cannot be read"),
    ],
)
async def test_a_wrong_authorization_is_told_what_is_wrong_and_no_more(
    client: httpx.AsyncClient, user: User, changed: Changed, authorization: str, why: str
) -> None:
    request = changed(user.sign("GET", GROUPS), authorization=authorization)
    message = refusal(await send(client, request))
    assert why in message
    assert "sk-stackserve-wrong" not in message


async def test_two_authorizations_are_one_too_many(
    client: httpx.AsyncClient, user: User, alice: NewKey
) -> None:
    request = user.sign("GET", GROUPS)
    both = [*request.headers, ("authorization", f"Bearer {alice.key}")]
    message = refusal(await send(client, replace(request, headers=both)))
    assert message == "the header authorization is there 2 times; send it once"


@pytest.mark.parametrize("path", ["/v1/models", "/ocid1.md/predict", "/ocid1.md/predictWithResponseStream/v1/completions"])  # fmt: skip
async def test_openai_clients_find_their_error_in_it(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.json()["error"] == {
        "message": refusal(response),
        "type": "authentication_error",
        "param": None,
        "code": "not_authenticated",
    }


async def test_the_control_plane_has_code_and_message_alone(client: httpx.AsyncClient) -> None:
    assert (await client.get(GROUPS)).json().keys() == {"code", "message"}


async def test_a_refusal_names_the_ways_in(
    user: User, alice: NewKey, tmp_path: Path, client: httpx.AsyncClient
) -> None:
    def challenges(response: httpx.Response) -> list[str]:
        return [each.split()[0] for each in response.headers.get_list("www-authenticate")]

    assert challenges(await client.get(GROUPS)) == ["Signature", "Bearer"]
    assert challenges(await behind(echo, user.settings(tmp_path)).get(GROUPS)) == ["Signature"]
    bearer = AuthSettings(mode="bearer", bearer_keys=(alice.settings,))
    assert challenges(await behind(echo, bearer).get(GROUPS)) == ["Bearer"]


async def test_each_mode_takes_its_own_kind_alone(
    user: User, alice: NewKey, tmp_path: Path
) -> None:
    signed, headers = user.sign("GET", GROUPS), {"authorization": f"Bearer {alice.key}"}
    bearer = behind(echo, AuthSettings(mode="bearer", bearer_keys=(alice.settings,)))
    assert "is not taken here; send `Authorization: Bearer" in refusal(await send(bearer, signed))
    assert (await bearer.get(GROUPS, headers=headers)).status_code == 200
    signatures = behind(echo, user.settings(tmp_path))
    assert "is not taken here; sign the" in refusal(await signatures.get(GROUPS, headers=headers))
    assert (await send(signatures, signed)).status_code == 200


def test_without_a_mode_there_is_no_guard() -> None:
    server = ServerSettings()
    authenticator = open_authenticator(server, Path, store_open=True)
    assert guarded(echo, authenticator, server) is echo


def test_the_larger_limit_of_the_two_is_the_guards(alice: NewKey) -> None:
    auth = AuthSettings(mode="bearer", bearer_keys=(alice.settings,))
    server = ServerSettings(auth=auth, max_body_mib=1, predict_max_body_mib=2)
    guard = guarded(echo, open_authenticator(server, Path, store_open=True), server)
    assert isinstance(guard, Guard)
    assert guard.body_limit == 2 * 2**20


async def _nothing() -> Message:
    raise AssertionError("nothing should be read")


async def drive(app: Callable[..., Any], request: SignedRequest, incoming: list[Any]) -> list[Any]:
    """What an application sends for a request whose body comes in these messages."""
    sent: list[Any] = []
    scope: Mapping[str, Any] = {
        "type": "http",
        "method": request.method,
        "path": request.target,
        "raw_path": request.target.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in request.headers],
    }

    async def receive() -> Message:
        message: Message = incoming.pop(0)
        return message

    async def send(message: Message) -> None:
        sent.append(message)

    await app(dict(scope), receive, send)
    return sent
