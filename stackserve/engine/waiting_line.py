"""The adapters that wait for a slot, in the order in which they will get one."""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from collections.abc import Iterator


class WaitingLine:
    """First come, first served among equal priorities; the smaller priority first. Each adapter once.

    `join` and `leave` take O(1) but for a new priority, of which there are few.
    """

    def __init__(self) -> None:
        self._of: dict[int, int] = {}
        self._lines: dict[int, OrderedDict[int, None]] = {}
        """Ordered ones: a plain dict's front gets slow when others have left it."""
        self._priorities: list[int] = []

    def __len__(self) -> int:
        return len(self._of)

    def __contains__(self, adapter_id: int) -> bool:
        return adapter_id in self._of

    def __iter__(self) -> Iterator[int]:
        for priority in self._priorities:
            yield from self._lines[priority]

    def join(self, adapter_id: int, priority: int = 0) -> None:
        """At the end of its priority; one that waits already moves only to a better priority."""
        before = self._of.get(adapter_id)
        if before is not None:
            if before <= priority:
                return
            self.leave(adapter_id)
        if priority not in self._lines:
            self._lines[priority] = OrderedDict()
            insort(self._priorities, priority)
        self._lines[priority][adapter_id] = None
        self._of[adapter_id] = priority

    def leave(self, adapter_id: int) -> None:
        """No matter whether it is there."""
        priority = self._of.pop(adapter_id, None)
        if priority is None:
            return
        line = self._lines[priority]
        del line[adapter_id]
        if not line:
            del self._lines[priority]
            self._priorities.remove(priority)
