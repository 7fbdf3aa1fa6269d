"""`stackserve key NAME`: a new bearer key, and the line of the configuration that lets it in."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from pydantic import ValidationError

from stackserve.errors import ConfigError
from stackserve.server_settings import BearerKeySettings

PREFIX = "sk-stackserve-"
RANDOM_BYTES = 32


@dataclass(frozen=True)
class NewKey:
    """`key` is for the client alone; the server needs its digest."""

    key: str
    settings: BearerKeySettings

    @property
    def yaml(self) -> str:
        """The item of `server.auth.bearer_keys`."""
        return f'- {{ name: "{self.settings.name}", sha256: "{self.settings.sha256}" }}'


def new_key(name: str) -> NewKey:
    """A random key. Raises ConfigError for a name that the configuration does not allow."""
    key = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    digest = hashlib.sha256(key.encode()).hexdigest()
    try:
        return NewKey(key, BearerKeySettings(name=name, sha256=digest))
    except ValidationError:
        raise ConfigError(
            f"{name!r} cannot be the name of a key; take 1 to 64 of A-Z a-z 0-9 . _ @ -, a letter or "
            "digit first"
        ) from None
