"""What an adapter may be, and what is known of one that passed every rule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stackserve.adapters.folder import FileDigest


@dataclass(frozen=True)
class AdapterLimits:
    """What an engine was started for: the rank of its slots, and bytes of an adapter's files."""

    max_rank: int
    max_bytes: int
    any_kind: bool = False
    """All that PEFT serves may be admitted, and not only what vLLM computes as PEFT does."""


@dataclass(frozen=True)
class ValidatedAdapter:
    """An adapter that passed every rule. `digest` is its identity (see `adapter_digest`).

    `rank` is the largest of its modules; `scalings` are the distinct factors on B·A;
    `target_modules` are the last parts of the trained modules' names; `dtype` joins several by +.
    """

    digest: str
    rank: int
    scalings: tuple[float, ...]
    target_modules: tuple[str, ...]
    dtype: str
    parameters: int
    size_bytes: int
    folder: Path
    files: tuple[FileDigest, ...]
    base_fingerprint: str
    base_model_name: str
