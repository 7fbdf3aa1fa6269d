"""Composite adapters: several adapters of one base, each with a weight, made into one.

For each module, with parts of rank r, weight w and scale s:

    A = [w0·s0·A0; w1·s1·A1; …]   (r0 + r1 + …, inputs)
    B = [B0, B1, …]               (outputs, r0 + r1 + …)

and alpha = rank, so B·A is the weighted sum of the parts' deltas: an ordinary adapter with nothing
left to scale. All that validation lets through is plain LoRA, for which this sum is exact. A module
that some parts leave alone gets the ranks of the others only.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from stackserve.adapters.architecture import BaseArchitecture
from stackserve.adapters.codes import Code
from stackserve.adapters.composite_weights import Piece, rank_of, size_of, write_weights
from stackserve.adapters.folder import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    check_size,
    open_adapter,
    read_config,
)
from stackserve.adapters.lora_modules import lora_modules
from stackserve.adapters.peft_config import parse_config
from stackserve.adapters.safetensors_file import read_header
from stackserve.adapters.validate import validate_adapter
from stackserve.adapters.validated import AdapterLimits, ValidatedAdapter
from stackserve.errors import ArtifactRejected

BUILDER = "stackserve-composite-v1"
"""Changes whenever equal parts and weights would become other bytes."""

Modules = Mapping[str, tuple[Piece, ...]]
"""Module name → what each part adds to it, in the order of the parts; sorted by name."""


@dataclass(frozen=True)
class Part:
    """One adapter of a composite. `key` is for messages alone."""

    key: str
    weight: float
    adapter: ValidatedAdapter


@dataclass(frozen=True)
class Composite:
    """What a composite is made from. Neither the order nor the keys of its parts change it."""

    parts: tuple[Part, ...]

    @property
    def ordered(self) -> tuple[Part, ...]:
        """The parts in the order in which they are concatenated."""
        return tuple(sorted(self.parts, key=lambda part: (part.adapter.digest, part.weight)))

    @property
    def most_bytes(self) -> int:
        """What it takes on disk at most: the parts' types have at least half of fp32's bytes."""
        return 2 * sum(part.adapter.size_bytes for part in self.parts)

    @property
    def recipe(self) -> str:
        """A sha256 that names the parts, their weights and the builder, before anything is built."""
        lines = [BUILDER, *(f"{p.adapter.digest} {float(p.weight).hex()}" for p in self.ordered)]
        return hashlib.sha256(("\n".join(lines) + "\n").encode()).hexdigest()


AdapterSource = Path | Composite
"""Where an adapter comes from: a folder as PEFT saves it, or parts that are validated already."""


def part_refused(key: str, code: str, message: str) -> ArtifactRejected:
    """The refusal of a composite because its part `key` is refused."""
    return ArtifactRejected(Code.PART_REFUSED, f"Its part {key} is refused ({code}): {message}")


def validate_source(
    source: AdapterSource, base: BaseArchitecture, limits: AdapterLimits
) -> ValidatedAdapter:
    """Check an adapter without keeping it: the `folder` of a composite is gone afterwards."""
    if isinstance(source, Path):
        return validate_adapter(source, base, limits)
    try:
        with tempfile.TemporaryDirectory(prefix="stackserve-") as folder:
            return build_composite(source, Path(folder), base, limits)
    except OSError as error:
        raise ArtifactRejected(
            Code.STORE_UNWRITABLE,
            f"The folder for temporary files cannot be written ({error.strerror});"
            " free space there or set TMPDIR.",
        ) from error


def build_composite(
    composite: Composite, folder: Path, base: BaseArchitecture, limits: AdapterLimits
) -> ValidatedAdapter:
    """Write a composite's two files into an empty folder, and validate them as any adapter's.

    Equal parts and weights give equal bytes. Raises ArtifactRejected, or OSError of the folder.
    """
    with ExitStack() as files:
        modules = _modules(composite, base, limits, files)
        _check_rank(composite, modules, limits.max_rank)
        try:
            check_size(size_of(modules), limits.max_bytes)
            (folder / CONFIG_FILE).write_bytes(_config(modules, base))
            write_weights(folder / WEIGHTS_FILE, modules)
            return validate_adapter(folder, base, limits)
        except ArtifactRejected as error:
            keys = ", ".join(part.key for part in composite.parts)
            raise ArtifactRejected(
                error.code, f"What {keys} make with their weights is refused: {error.message}"
            ) from error


def _modules(
    composite: Composite, base: BaseArchitecture, limits: AdapterLimits, files: ExitStack
) -> Modules:
    """The modules of all parts, whose files stay open as long as `files`."""
    modules: dict[str, tuple[Piece, ...]] = {}
    for part in composite.ordered:
        if part.adapter.base_fingerprint != base.fingerprint:
            raise ArtifactRejected(
                Code.PART_OF_ANOTHER_BASE,
                f"Its part {part.key} was validated against another base; use adapters of one base.",
            )
        try:
            pieces = _pieces(part, limits, files)
        except ArtifactRejected as error:
            raise part_refused(part.key, error.code, error.message) from error
        for piece in pieces:
            modules[piece.lora.name] = (*modules.get(piece.lora.name, ()), piece)
    return dict(sorted(modules.items()))


def _pieces(part: Part, limits: AdapterLimits, files: ExitStack) -> tuple[Piece, ...]:
    opened = files.enter_context(open_adapter(part.adapter.folder, limits.max_bytes))
    config = parse_config(read_config(opened))
    tensors = read_header(opened.weights_fd, name=WEIGHTS_FILE, code=Code.WEIGHTS_INVALID)
    return tuple(
        Piece(lora, part.weight, config.scale_of(lora.name), opened.weights_fd)
        for lora in lora_modules(tensors)
    )


def _check_rank(composite: Composite, modules: Modules, max_rank: int) -> None:
    name, pieces = max(modules.items(), key=lambda item: rank_of(item[1]))
    if rank_of(pieces) > max_rank:
        parts = ", ".join(f"{part.key} (rank {part.adapter.rank})" for part in composite.parts)
        raise ArtifactRejected(
            Code.RANK_OVER_LIMIT,
            f"The parts {parts} have rank {rank_of(pieces)} together on {name}, over the limit of"
            f" {max_rank}; leave one out, or raise the limit.",
        )


def _config(modules: Modules, base: BaseArchitecture) -> bytes:
    """adapter_config.json: the most frequent rank as `r`, the others as patterns."""
    ranks = {name: rank_of(pieces) for name, pieces in modules.items()}
    (default, _), *_ = Counter(ranks.values()).most_common(1)
    pattern = _pattern(ranks, default)
    fields = {
        "peft_type": "LORA",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": default,
        "lora_alpha": default,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "target_modules": _targets(modules, base),
    }
    return (json.dumps(fields, indent=2) + "\n").encode()


def _targets(modules: Modules, base: BaseArchitecture) -> list[str]:
    """The last parts of the names, or whole names where the base has modules that are no target."""
    others = {_last(name) for name in base.modules if name not in modules}
    return sorted({name if _last(name) in others else _last(name) for name in modules})


def _pattern(ranks: Mapping[str, int], default: int) -> dict[str, int]:
    """The ranks other than `default`, by the last part of the name where that says enough."""
    by_last: dict[str, set[int]] = {}
    for name, rank in ranks.items():
        by_last.setdefault(_last(name), set()).add(rank)
    return {
        _last(name) if len(by_last[_last(name)]) == 1 else name: rank
        for name, rank in ranks.items()
        if rank != default
    }


def _last(name: str) -> str:
    return name.rpartition(".")[2]
