"""JSON from strangers: one object, no duplicate keys, finite numbers, and no exception but ours."""

from __future__ import annotations

import json
import math
from typing import NoReturn

from stackserve.adapters.codes import Code
from stackserve.errors import ArtifactRejected

LONGEST_SHOWN = 80


def shown(value: object) -> str:
    """`value` as short printable ASCII, safe to put in a message and a log line."""
    try:
        text = ascii(value)
    except (RecursionError, ValueError):  # nested too deep; an int with too many digits
        return "a value that is too large to show"
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


def parse_object(data: bytes, *, name: str, code: Code) -> dict[str, object]:
    """The JSON object in `data`; anything else raises ArtifactRejected with `code`.

    `name` is the file named in the message.
    """
    try:
        parsed = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_no_constant,
            parse_float=_finite_float,
        )
    except UnicodeDecodeError as error:
        raise ArtifactRejected(
            code, f"{name} is not UTF-8 (byte {error.start}); save it again as UTF-8."
        ) from error
    except RecursionError as error:
        raise ArtifactRejected(
            code, f"{name} nests its JSON too deep; save the adapter again."
        ) from error
    except ValueError as error:
        raise ArtifactRejected(
            code, f"{name} is not valid JSON ({error}); write it again."
        ) from error
    if not isinstance(parsed, dict):
        raise ArtifactRejected(
            code, f"{name} holds {shown(parsed)} instead of a JSON object; write it again."
        )
    return parsed


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {shown(key)} appears twice")
            seen.add(key)
    return unique


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{shown(text)} is too large for a number")
    return number
