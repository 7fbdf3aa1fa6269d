"""A client's key, and requests as the official SDK signs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from oci._vendor import requests
from oci.signer import Signer

from stackserve.auth.keys import fingerprint
from stackserve.auth.signature import SignedRequest
from stackserve.server_settings import AuthSettings, PublicKeySettings

TENANCY, USER = "ocid1.tenancy.oc1..stackserve", "ocid1.user.oc1..stackserve"
HOST = "127.0.0.1:8000"
NOW = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)


@dataclass(frozen=True)
class User:
    """Somebody with an RSA key of their own."""

    key: rsa.RSAPrivateKey

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.key.public_key())

    @property
    def key_id(self) -> str:
        return f"{TENANCY}/{USER}/{self.fingerprint}"

    @property
    def public_pem(self) -> bytes:
        return self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def private_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def config(self) -> dict[str, str]:
        """What the SDK asks of a user."""
        return {
            "user": USER,
            "tenancy": TENANCY,
            "fingerprint": self.fingerprint,
            "key_content": self.private_pem.decode(),
            "region": "local",
        }

    def settings(self, folder: Path, **more: Any) -> AuthSettings:
        """Those of a server that knows this user."""
        (folder / "user.pem").write_bytes(self.public_pem)
        known = PublicKeySettings(key_id=self.key_id, path=str(folder / "user.pem"))
        return AuthSettings(mode="oci", public_keys=(known,), **more)

    def sign(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        upload: bool = False,
        date: datetime = NOW,
        **headers: str,
    ) -> SignedRequest:
        """A request signed by the SDK's own signer, as it arrives; an upload without its digest."""
        signer = Signer(TENANCY, USER, self.fingerprint, None, None, self.private_pem.decode())
        prepared = requests.Request(
            method,
            f"http://{HOST}{path}",
            data=body,
            headers={"date": format_datetime(date, usegmt=True), **headers},
        ).prepare()
        signed = (signer.without_content_headers if upload else signer)(prepared)
        arriving = [(name.lower(), value) for name, value in signed.headers.items()]
        return SignedRequest(method, prepared.path_url, arriving)


@pytest.fixture(scope="session")
def user() -> User:
    return User(rsa.generate_private_key(public_exponent=65537, key_size=2048))


@pytest.fixture(scope="session")
def stranger() -> User:
    return User(rsa.generate_private_key(public_exponent=65537, key_size=2048))


Changed = Callable[..., SignedRequest]


@pytest.fixture
def changed() -> Changed:
    """A request of which some headers are others; a None takes one away."""

    def change(request: SignedRequest, **headers: str | None) -> SignedRequest:
        new = {name.replace("_", "-"): value for name, value in headers.items()}
        kept = [(name, value) for name, value in request.headers if name not in new]
        kept += [(name, value) for name, value in new.items() if value is not None]
        return SignedRequest(request.method, request.target, kept)

    return change
