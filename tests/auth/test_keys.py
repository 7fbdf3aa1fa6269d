"""Keys: read from files and settings, checked before they are trusted."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stackserve.auth.keys import Keys, fingerprint, read_keys, user_of
from stackserve.auth.new_key import new_key
from stackserve.cli import main
from stackserve.configfile import load_settings
from stackserve.errors import ConfigError, NotAuthenticated
from stackserve.server_settings import AuthSettings, PublicKeySettings
from tests.auth.conftest import TENANCY, USER, User

DIGEST = "ab" * 32


def read(path: Path, key_id: str) -> Keys:
    known = PublicKeySettings(key_id=key_id, path=str(path))
    return read_keys(AuthSettings(mode="oci", public_keys=(known,)), Path)


def test_a_public_key_is_found_by_its_key_id(user: User, tmp_path: Path) -> None:
    keys = read_keys(user.settings(tmp_path), Path)
    assert keys.public_key(user.key_id).public_numbers() == user.key.public_key().public_numbers()
    assert user_of(user.key_id) == USER


def test_an_unknown_key_id_is_named_with_the_remedy(user: User, stranger: User, tmp_path: Path) -> None:  # fmt: skip
    keys = read_keys(user.settings(tmp_path), Path)
    with pytest.raises(NotAuthenticated) as refused:
        keys.public_key(stranger.key_id)
    assert stranger.key_id in refused.value.message
    assert "server.auth.public_keys" in refused.value.message


def test_the_fingerprint_must_be_that_of_the_file(user: User, stranger: User, tmp_path: Path) -> None:  # fmt: skip
    path = tmp_path / "key.pem"
    path.write_bytes(stranger.public_pem)
    with pytest.raises(ConfigError) as refused:
        read(path, user.key_id)
    for said in (str(path), user.fingerprint, stranger.fingerprint):
        assert said in refused.value.message


def test_a_private_key_does_not_belong_on_a_server(user: User, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(user.private_pem)
    with pytest.raises(ConfigError, match=r"is a private key.*openssl rsa -pubout") as refused:
        read(path, user.key_id)
    assert user.private_pem.decode().splitlines()[1] not in refused.value.message


def pem_of(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_what_is_no_rsa_public_key_is_refused(user: User, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    curve = pem_of(ec.generate_private_key(ec.SECP256R1()).public_key())
    for content in (b"", b"\0\xff", user.public_pem[:100], curve):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="not an RSA public key in PEM form"):
            read(path, user.key_id)


def test_a_short_key_is_refused(tmp_path: Path) -> None:
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()
    path = tmp_path / "key.pem"
    path.write_bytes(pem_of(short))
    with pytest.raises(ConfigError, match="has 1024 bits; 2048 are the least"):
        read(path, f"{TENANCY}/{USER}/{fingerprint(short)}")


def test_a_missing_file_is_named(user: User, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file or directory; server\.auth.public_keys"):
        read(tmp_path / "nowhere.pem", user.key_id)


def test_a_new_key_is_taken_under_its_name_and_others_are_not() -> None:
    made, other = new_key("alice"), new_key("bob")
    known = (made.settings, other.settings)
    keys = read_keys(AuthSettings(mode="bearer", bearer_keys=known), Path)
    assert (keys.bearer(made.key), keys.bearer(other.key)) == ("alice", "bob")
    for wrong in ("", made.key[:-1], made.key + "a", made.settings.sha256, new_key("alice").key):
        with pytest.raises(NotAuthenticated) as refused:
            keys.bearer(wrong)
        assert not wrong or wrong not in refused.value.message


def test_the_command_prints_a_key_and_what_the_configuration_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["key", "alice"]) == 0
    printed = capsys.readouterr().out.splitlines()
    file = tmp_path / "c.yaml"
    file.write_text(
        "server:\n  store: true\n  auth:\n    mode: bearer\n    bearer_keys:\n"
        f"      {printed[-1]}\n"
    )
    (known,) = load_settings(file).server.auth.bearer_keys
    assert known.name == "alice"
    assert known.sha256 == hashlib.sha256(printed[0].encode()).hexdigest()


@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 65, 'a"b', "ä"])
def test_a_key_needs_a_name_that_can_be_written(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["key", "--", name]) == 2
    assert "cannot be the name of a key" in capsys.readouterr().err


KEY_ID = f"t/u/{':'.join(['ab'] * 16)}"
PUBLIC = f"[{{key_id: '{KEY_ID}', path: key.pem}}]"
BEARER = f"[{{name: a, sha256: {DIGEST}}}]"


@pytest.mark.parametrize(
    ("auth", "why"),
    [
        ("{mode: oci}", "mode oci needs public_keys"),
        (f"{{mode: oci, bearer_keys: {BEARER}}}", "mode oci needs public_keys"),
        ("{mode: bearer}", "mode bearer needs bearer_keys"),
        (f"{{mode: bearer, bearer_keys: {BEARER}, public_keys: {PUBLIC}}}", "takes no signatures"),
        (f"{{bearer_keys: {BEARER}}}", "there are keys and no mode"),
        ("{mode: basic}", "server.auth.mode: 'basic' is not allowed"),
        (f"{{mode: oci, public_keys: [{PUBLIC[1:-1]}, {PUBLIC[1:-1]}]}}", f"{KEY_ID} more than once"),
        (f"{{mode: bearer, bearer_keys: [{{name: a, sha256: {DIGEST}}}, {{name: a, sha256: {'cd' * 32}}}]}}", "has a more than once"),
        (f"{{mode: bearer, bearer_keys: [{{name: a, sha256: {DIGEST}}}, {{name: b, sha256: {DIGEST}}}]}}", f"{DIGEST} more than once"),
        ("{mode: bearer, bearer_keys: [{name: a, sha256: sk-secret}]}", "sha256: should be the SHA-256 of the key"),
        (f"{{mode: bearer, bearer_keys: [{{name: a, sha256: {DIGEST.upper()}}}]}}", "64 of 0-9 a-f"),
        ("{mode: oci, public_keys: [{key_id: t/u/ab, path: key.pem}]}", "key_id: 't/u/ab' is not allowed"),
        ("{clock_skew_seconds: 0}", "clock_skew_seconds"),
    ],
)  # fmt: skip
def test_settings_that_contradict_themselves_are_refused(
    tmp_path: Path, auth: str, why: str
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"server:\n  store: true\n  auth: {auth}\n")
    with pytest.raises(ConfigError) as refused:
        load_settings(file)
    assert why in refused.value.message
    assert "server.auth" in refused.value.message
    assert "sk-secret" not in refused.value.message


def test_keys_may_wait_for_a_mode_that_is_written(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"server: {{store: true, auth: {{mode: bearer, bearer_keys: {BEARER}}}}}")
    assert load_settings(file, ["server.auth.mode=none"]).server.auth.mode == "none"
