"""What all tests share: tiny models, and groups of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from stackserve.adapters import validate_source
from stackserve.control.groups import StackedGroup, read_group
from stackserve.engine_settings import EngineSettings
from stackserve.settings import BaseSettings, GroupSettings, MemberSettings
from stackserve.store.database import Database, open_database
from tests import postgresql
from tests.tiny_models import Adapters, write_base

hypothesis.settings.register_profile("stackserve", deadline=None)  # the cores are shared
hypothesis.settings.load_profile("stackserve")


@dataclass
class Models:
    """A base, adapters by name (made once each), and groups of them."""

    folder: Path
    _made: dict[str, Path] = field(default_factory=dict)

    @property
    def base(self) -> Path:
        return self.folder / "base"

    def adapter(self, name: str) -> Path:
        """A folder with an adapter of its own digest."""
        if name not in self._made:
            config = {"base_model_name_or_path": name}
            self._made[name] = Adapters(self.folder / "adapters" / name).make(config)
        return self._made[name]

    def group(
        self,
        name: str = "g",
        members: tuple[str, ...] = ("a",),
        *,
        key: str = "base",
        start: Any = None,
        **engine: Any,
    ) -> GroupSettings:
        """A group of these models. `start` is an order to the fake worker, see workers/fake.py."""
        if start is not None:
            engine["vllm_args"] = {"fake_start": start}
        return GroupSettings(
            name=name,
            base=BaseSettings(key=key, path=str(self.base)),
            members=tuple(MemberSettings(key=m, path=str(self.adapter(m))) for m in members),
            engine=EngineSettings(**engine),
        )


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    write_base(folder / "base")
    return Models(folder)


def read(settings: GroupSettings) -> StackedGroup:
    """The group as `stackserve check` reads it."""
    return read_group(settings, Path, validate_source)


@pytest.fixture(scope="session")
def oci_config() -> dict[str, str]:
    """What the SDK asks of a user: a key that nobody else needs to know."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return {
        "user": "ocid1.user.oc1..stackserve",
        "tenancy": "ocid1.tenancy.oc1..stackserve",
        "fingerprint": ":".join(["aa"] * 16),
        "key_content": pem.decode(),
        "region": "local",
    }


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[postgresql.Server]:
    """Started once, by the first test that asks for it."""
    folder = postgresql.binaries()
    if folder is None:
        pytest.skip("PostgreSQL is not installed (apt install postgresql)")
    with postgresql.running(folder) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/stackserve.db"
    server: postgresql.Server = request.getfixturevalue("postgresql_server")
    return server.new_database()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = open_database(database_url)
    yield database
    database.close()
