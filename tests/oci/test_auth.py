"""The control plane in each auth mode, with the official client."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import oci
import pytest
from cryptography.hazmat.primitives import serialization
from oci.data_science.models import CreateProjectDetails

from stackserve.client import ApiError, Client
from stackserve.server_settings import AuthSettings, BearerKeySettings, PublicKeySettings
from tests.conftest import Models
from tests.oci.conftest import COMPARTMENT
from tests.oci.served import serving_store

DETAILS = CreateProjectDetails(compartment_id=COMPARTMENT, display_name="p")


def known(config: dict[str, str], folder: Path) -> tuple[dict[str, str], PublicKeySettings]:
    """The config with its key's true fingerprint, and that key as the server is told of it."""
    private = serialization.load_pem_private_key(config["key_content"].encode(), None)
    public = private.public_key()
    der = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    digest = hashlib.md5(der, usedforsecurity=False).hexdigest()
    fingerprint = ":".join(digest[i : i + 2] for i in range(0, 32, 2))
    pem = folder / "key.pem"
    pem.write_bytes(
        public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    config = {**config, "fingerprint": fingerprint}
    key_id = f"{config['tenancy']}/{config['user']}/{fingerprint}"
    return config, PublicKeySettings(key_id=key_id, path=str(pem))


async def test_signed_requests_of_a_known_key_are_done_in_its_users_name(
    tmp_path: Path, oci_config: dict[str, str], models: Models
) -> None:
    config, key = known(oci_config, tmp_path)
    auth = AuthSettings(mode="oci", public_keys=(key,))
    async with serving_store(tmp_path / "data", config, auth=auth) as served:

        def story() -> None:
            made = served.client.create_project(DETAILS).data
            assert made.created_by == config["user"]
            assert served.model(models.adapter("a")), "an upload is signed without its body"
            stranger = oci.data_science.DataScienceClient(
                oci_config,
                service_endpoint=served.url,
                retry_strategy=oci.retry.NoneRetryStrategy(),
            )
            with pytest.raises(oci.exceptions.ServiceError) as caught:
                stranger.create_project(DETAILS)
            assert (caught.value.status, caught.value.code) == (401, "NotAuthenticated")

        await asyncio.to_thread(story)


async def test_a_bearer_key_opens_the_api(tmp_path: Path, oci_config: dict[str, str]) -> None:
    digest = hashlib.sha256(b"secret").hexdigest()
    auth = AuthSettings(mode="bearer", bearer_keys=(BearerKeySettings(name="ci", sha256=digest),))
    async with serving_store(tmp_path, oci_config, auth=auth) as served:

        def story() -> None:
            with Client(served.url, "secret") as client:
                assert client.models() == []
            with Client(served.url, "guess") as client, pytest.raises(ApiError) as caught:
                client.models()
            assert caught.value.code == "NotAuthenticated"

        await asyncio.to_thread(story)
