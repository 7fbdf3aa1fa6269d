"""The keys that this server knows, read from the settings, and who they belong to."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from stackserve.errors import ConfigError, NotAuthenticated
from stackserve.server_settings import AuthSettings, PublicKeySettings

LEAST_BITS = 2048
MOST_BYTES = 64 * 1024


@dataclass(frozen=True)
class Keys:
    """Public keys by key id, and names with the SHA-256 digests of their bearer keys."""

    public: Mapping[str, RSAPublicKey]
    bearers: Sequence[tuple[str, bytes]]

    def public_key(self, key_id: str) -> RSAPublicKey:
        """Raises NotAuthenticated for a key id that is not known."""
        if key_id not in self.public:
            raise NotAuthenticated(
                f"the key id {key_id!r} is not known here; name it, with its public key, in "
                "server.auth.public_keys"
            )
        return self.public[key_id]

    def bearer(self, key: str) -> str:
        """The name of a bearer key. Raises NotAuthenticated for one that is not known.

        Every digest is compared, in constant time, so the time that it takes tells nothing.
        """
        digest = hashlib.sha256(key.encode("latin-1")).digest()
        names = [name for name, known in self.bearers if hmac.compare_digest(known, digest)]
        if not names:
            raise NotAuthenticated(
                "the bearer key is not known here; `stackserve key NAME` makes one for "
                "server.auth.bearer_keys"
            )
        return names[0]


def user_of(key_id: str) -> str:
    """The user OCID in a key id, `<tenancy>/<user>/<fingerprint>`."""
    return key_id.split("/")[1]


def read_keys(auth: AuthSettings, locate: Callable[[str], Path]) -> Keys:
    """The keys that the settings name; `locate` finds the file of a path as written there.

    Raises ConfigError for a file that is not the public key with that fingerprint.
    """
    public = {each.key_id: _read_public_key(each, locate(each.path)) for each in auth.public_keys}
    return Keys(public, [(each.name, bytes.fromhex(each.sha256)) for each in auth.bearer_keys])


def fingerprint(key: RSAPublicKey) -> str:
    """The fingerprint that OCI gives a public key: MD5 of its DER form, in pairs of digits."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.md5(der, usedforsecurity=False).digest().hex(":")


def _read_public_key(settings: PublicKeySettings, path: Path) -> RSAPublicKey:
    key = _rsa_key(path)
    if key.key_size < LEAST_BITS:
        raise ConfigError(f"{path}: the key has {key.key_size} bits; {LEAST_BITS} are the least")
    named = settings.key_id.rpartition("/")[2]
    if named != fingerprint(key):
        raise ConfigError(
            f"{path}: the key's fingerprint is {fingerprint(key)}, and its key_id in "
            f"server.auth.public_keys ends with {named}; correct the one or the other"
        )
    return key


def _rsa_key(path: Path) -> RSAPublicKey:
    try:
        with path.open("rb") as file:
            pem = file.read(MOST_BYTES)
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror or error}; server.auth.public_keys names PEM files"
        ) from None
    if b"PRIVATE KEY" in pem:
        raise ConfigError(
            f"{path}: this is a private key, which stays with the client; give its public key, which "
            f"`openssl rsa -pubout -in {path.name}` prints"
        )
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPublicKey):
        raise ConfigError(f"{path}: this is not an RSA public key in PEM form")
    return key
