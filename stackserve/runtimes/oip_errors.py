"""What the codec of the Open Inference Protocol refuses, in sentences that never grow with the request."""

from __future__ import annotations

from collections.abc import Sequence

from stackserve.runtimes.base import BadInput

LONGEST = 300
"""Characters of a message."""
LONGEST_NAME = 60
MOST_DIMENSIONS = 8
"""Of a shape, that are shown."""


class BadRequest(BadInput):
    """The request is not what the protocol or the model takes: the caller's fault, a status of 400."""

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= LONGEST else message[: LONGEST - 3] + "...")


class TooLarge(Exception):
    """The request's body is larger than it may be: a status of 413."""


class ModelFault(Exception):
    """What the model gave is not what its metadata says: our fault, a status of 500."""


def shown(value: object) -> str:
    """Something out of a request as short printable ASCII."""
    if isinstance(value, str):
        value = value[: LONGEST_NAME + 1]
    try:
        text = ascii(value)
    except ValueError:  # an int with too many digits
        return "a value that is too large to show"
    return text if len(text) <= LONGEST_NAME + 2 else text[:LONGEST_NAME] + "..."


def shown_shape(shape: Sequence[int]) -> str:
    """A shape as in JSON, its first dimensions only."""
    text = ", ".join(shown(size)[:24] for size in shape[:MOST_DIMENSIONS])
    return f"[{text}, ...]" if len(shape) > MOST_DIMENSIONS else f"[{text}]"
