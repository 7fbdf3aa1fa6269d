"""The adapters that are being read from disk, and those to be read before anybody asks for them."""

from __future__ import annotations

from collections import OrderedDict


class ReadingList:
    """At most `most` are read at once. Of those that are wanted, the ones that somebody waits for (they
    may displace others from host memory) are kept apart from those to be read as far as there is room.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._under_way: set[int] = set()
        self._awaited: OrderedDict[int, None] = OrderedDict()
        self._if_room: OrderedDict[int, None] = OrderedDict()

    def __contains__(self, adapter_id: int) -> bool:
        """It is being read, or is still to be."""
        wanted = adapter_id in self._awaited or adapter_id in self._if_room
        return wanted or adapter_id in self._under_way

    def __len__(self) -> int:
        """How many are being read."""
        return len(self._under_way)

    @property
    def is_full(self) -> bool:
        return len(self._under_way) >= self._most

    @property
    def under_way(self) -> frozenset[int]:
        return frozenset(self._under_way)

    def want(self, adapter_id: int, *, awaited: bool) -> None:
        (self._awaited if awaited else self._if_room)[adapter_id] = None

    def next_awaited(self) -> int | None:
        """Take the next one that somebody waits for."""
        return self._awaited.popitem(last=False)[0] if self._awaited else None

    def next_if_room(self) -> int | None:
        """Take the next one to be read as far as there is room."""
        return self._if_room.popitem(last=False)[0] if self._if_room else None

    def give_up_rest(self) -> None:
        """There is no room: what was to be read ahead is read when it is asked for."""
        self._if_room.clear()

    def begin(self, adapter_id: int) -> None:
        self._under_way.add(adapter_id)

    def end(self, adapter_id: int) -> None:
        self._under_way.remove(adapter_id)
