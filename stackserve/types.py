"""The nouns that every part of stackserve shares: frozen, without behaviour beyond derived facts."""

from __future__ import annotations

import re
from dataclasses import dataclass

KEY_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
"""An inference key: what a client writes in `model`. At most 32 characters, as in OCI."""

MODEL_ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}")
"""A model id: the other name of a member, for instance an OCID."""


@dataclass(frozen=True)
class Target:
    """What one inference key means right now: which weights, on which worker."""

    group: str
    version: str
    key: str
    model_id: str
    worker_model: str
    """The name inside the worker. It carries the adapter's digest, so it can mean no other weights."""
    adapter_sha256: str | None
    """None for the base itself."""
    parent: str | None
    """The base's key, for an adapter."""


@dataclass(frozen=True)
class Refusal:
    """A configured member that is not served, and why."""

    group: str
    key: str
    model_id: str
    code: str
    message: str
