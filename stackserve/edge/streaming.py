"""Server-sent events on their way through: bytes are passed on unparsed, cut only between events."""

from __future__ import annotations

from dataclasses import dataclass

END_OF_EVENT = b"\n\n"
ERROR_FRAME = b'data: {"error"'
MAX_EVENT_BYTES = 64 * 2**20


class EventTooLarge(Exception):
    """A worker sent more than `MAX_EVENT_BYTES` without ending the event."""


@dataclass
class EventStream:
    """Holds back an event's beginning until its end is there: an empty line, as vLLM writes it (LF).

    A client thus never sees half an event, and an error event can follow at any moment.
    """

    saw_error: bool = False
    _held: bytes = b""

    @property
    def unfinished(self) -> bool:
        """Whether an event has begun and not ended."""
        return bool(self._held)

    def whole_events(self, chunk: bytes) -> bytes:
        """What may be passed on now that `chunk` has arrived; may be empty."""
        data = self._held + chunk if self._held else chunk
        end = data.rfind(END_OF_EVENT)
        cut = end + len(END_OF_EVENT) if end >= 0 else 0
        self._held = data[cut:]
        if len(self._held) > MAX_EVENT_BYTES:
            raise EventTooLarge
        passed = data[:cut]
        self.saw_error = self.saw_error or ERROR_FRAME in passed
        return passed
