"""The bytes of adapters in host memory: how many there may be, and which go first."""

from __future__ import annotations

from stackserve.engine.tiers import Adapter, Tier


class HostMemory:
    """Counts what is held, copies of adapters on the device included. Decides, and moves nothing."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._held = 0
        self._off_device: dict[int, Adapter] = {}

    def take(self, adapter: Adapter) -> None:
        """An adapter has been read."""
        self.used += adapter.num_bytes
        self._held += 1
        self.left_device(adapter)

    def went_to_device(self, adapter: Adapter) -> None:
        del self._off_device[adapter.id]

    def left_device(self, adapter: Adapter) -> None:
        self._off_device[adapter.id] = adapter

    def give_back(self, adapter: Adapter) -> None:
        """It is in no memory any more."""
        del self._off_device[adapter.id]
        self.used -= adapter.num_bytes
        self._held -= 1

    def expected(self, under_way: int) -> int:
        """Bytes that so many more adapters will take, if they are like those that are held."""
        return self.used * under_way // self._held if self._held else 0

    def excess(self, more: int = 0) -> int:
        """Bytes over the limit when so many more are held; negative when there is room."""
        return self.used + more - self.limit

    def victims(self, num_bytes: int, now: float) -> list[Adapter]:
        """Those to forget so that so many bytes are free: of least worth, used by nobody, not pinned.

        May free less. O(n log n) in the adapters that are in host memory alone.
        """
        unused = (each for each in self._off_device.values() if not (each.is_used or each.pinned))
        chosen = []
        for adapter in sorted(unused, key=lambda each: each.worth(now)):
            if num_bytes <= 0:
                break
            chosen.append(adapter)
            num_bytes -= adapter.num_bytes
        return chosen

    def check_integrity(self, adapters: list[Adapter]) -> None:
        """Raise AssertionError unless this is what these adapters' tiers say."""
        held = [each for each in adapters if each.tier in (Tier.HOST, Tier.DEVICE)]
        assert sum(each.num_bytes for each in held) == self.used
        assert len(held) == self._held
        off_device = {each.id for each in held if each.tier is Tier.HOST}
        assert off_device == self._off_device.keys()
