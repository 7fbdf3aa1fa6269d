"""Universal Binary JSON as XGBoost writes it, read with every length checked.

XGBoost's own reader follows lengths past the end of a damaged file.
"""

from __future__ import annotations

from typing import Any

import numpy as np

MOST_DEPTH = 32
"""Of objects and arrays in each other. XGBoost's models need 8; its reader recurses."""

NUMBERS = {
    b"i": ">i1", b"U": ">u1", b"I": ">i2", b"l": ">i4", b"L": ">i8", b"d": ">f4", b"D": ">f8",
}  # fmt: skip
"""numpy's types by marker."""
INTEGERS = b"iUIlL"
CONSTANTS = {b"T": True, b"F": False, b"Z": None}


class Malformed(Exception):
    """These bytes are no UBJSON that XGBoost writes."""


def parse(data: bytes) -> Any:
    """The one value that the bytes are. Typed arrays of numbers become numpy arrays over `data`."""
    reader = _Reader(data)
    value = reader.value(reader.take(1), 0)
    if reader.position != len(data):
        raise Malformed(f"something follows byte {reader.position}")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def take(self, size: int) -> bytes:
        first, self.position = self.position, self.position + size
        if size < 0 or self.position > len(self._data):
            raise Malformed("it is cut off")
        return self._data[first : self.position]

    def value(self, marker: bytes, depth: int) -> Any:
        if depth > MOST_DEPTH:
            raise Malformed(f"byte {self.position} lies deeper than {MOST_DEPTH}")
        if marker in NUMBERS:
            return self._array(marker, 1)[0].item()
        if marker in CONSTANTS:
            return CONSTANTS[marker]
        if marker == b"S":
            return self._text()
        if marker == b"[":
            return self._list(depth)
        if marker == b"{":
            return self._object(depth)
        raise Malformed(f"byte {self.position} is no type that XGBoost writes")

    def _list(self, depth: int) -> Any:
        marker = self.take(1)
        if marker == b"$":
            kind = self.take(1)
            if kind not in NUMBERS or self.take(1) != b"#":
                raise Malformed(f"byte {self.position} is in a list of an unknown kind")
            return self._array(kind, self._length())
        if marker == b"#":
            return [self.value(self.take(1), depth + 1) for _ in range(self._length())]
        values = []
        while marker != b"]":
            values.append(self.value(marker, depth + 1))
            marker = self.take(1)
        return values

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while (marker := self.take(1)) != b"}":
            self.position -= len(marker)
            key = self._text()
            if key in found:
                raise Malformed(f"{key[:40]!r} is there twice")
            found[key] = self.value(self.take(1), depth + 1)
        return found

    def _text(self) -> str:
        try:
            return self.take(self._length()).decode()
        except UnicodeDecodeError as error:
            raise Malformed(f"the text before byte {self.position} is not UTF-8") from error

    def _length(self) -> int:
        marker = self.take(1)
        if marker not in INTEGERS:
            raise Malformed(f"byte {self.position} is no length")
        size = np.dtype(NUMBERS[marker]).itemsize
        return int.from_bytes(self.take(size), "big", signed=marker != b"U")

    def _array(self, marker: bytes, count: int) -> Any:
        dtype = np.dtype(NUMBERS[marker])
        first, self.position = self.position, self.position + count * dtype.itemsize
        if count < 0 or self.position > len(self._data):
            raise Malformed("it is cut off")
        return np.frombuffer(self._data, dtype, count, first)
