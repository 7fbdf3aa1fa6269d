"""Which adapters are on the device, in host memory, on their way: one owner, one table of moves.

disk → host: stager threads, several at once, each adapter once; those that wait for a slot first.
host → device: a free slot, else that of an idle adapter, else one that has drained (`slot_policy`).
device → host when another takes the slot. host → disk (forgotten) by the least worth, to stay within
the budget. What runs, waits or is pinned is not evicted.

Grows with the adapters that are registered, in memory or wanted. A step costs O(slots + adapters that
run + `LOOK_AHEAD`), however many wait; only a load into full host memory looks at all that is there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from stackserve.engine.adapter_host import AdapterHost, Staged, StageFailed
from stackserve.engine.host_memory import HostMemory
from stackserve.engine.reading_list import ReadingList
from stackserve.engine.slot_policy import Candidate, PolicySettings, Resident, decide
from stackserve.engine.tiers import Adapter, IdentityTaken, Observer, Tier, Work
from stackserve.engine.waiting_line import WaitingLine

BASE = 0
"""The id of requests without an adapter; always on the device."""
LOOK_AHEAD = 8
"""Adapters beyond the number of slots that are made ready ahead of their turn."""
PINNED_FIRST = -(1 << 62)
REMEMBERED = 60.0
"""Seconds for which a removed adapter's requests, sent before, may still arrive."""


class Residency:
    """Owns every adapter's tier. `advance` is called before each step, with what runs."""

    def __init__(
        self,
        slots: int,
        host: AdapterHost,
        observer: Observer,
        policy: PolicySettings,
        *,
        host_bytes: int,
        stagers: int,
    ) -> None:
        self.slots: list[int | None] = [None] * slots
        self.policy = policy
        self.memory = HostMemory(host_bytes)
        self._host = host
        self._observer = observer
        self._adapters: dict[int, Adapter] = {}
        self._line = WaitingLine()
        self._reading = ReadingList(stagers)
        self._running: set[int] = set()
        self._removed: set[int] = set()
        """Those of which something is left to be freed."""
        self._tombstones: deque[tuple[float, int]] = deque()
        self._drains = False

    def __iter__(self) -> Iterator[Adapter]:
        return iter(self._adapters.values())

    def get(self, adapter_id: int) -> Adapter | None:
        """The record of an adapter, to be read only."""
        return self._adapters.get(adapter_id)

    def is_resident(self, adapter_id: int) -> bool:
        """Its requests may run in the next step."""
        if adapter_id == BASE:
            return True
        adapter = self._adapters.get(adapter_id)
        return adapter is not None and adapter.tier is Tier.DEVICE and not adapter.draining

    def residents(self) -> list[int]:
        """The adapters on the device."""
        return [each for each in self.slots if each is not None]

    # Requests

    def arrived(self, adapter_id: int, name: str, source: Any, now: float) -> bool:
        """A request for an adapter is there, not yet queued; whether the adapter is on the device.

        Raises IdentityTaken.
        """
        adapter = self._record(adapter_id, name, source, now)
        adapter.requested(now)
        if adapter.removed_at is not None:
            self._removed.add(adapter_id)
        return adapter.tier is Tier.DEVICE

    def enqueued(self, adapter_id: int, priority: int, now: float) -> None:
        """One more of its requests waits."""
        adapter = self._adapters[adapter_id]
        adapter.priority = min(adapter.priority, priority) if adapter.waiting else priority
        adapter.waiting += 1
        if not adapter.running and adapter.waits_since is None:
            adapter.waits_since = now
        if adapter.tier is not Tier.DEVICE:
            self._line.join(adapter_id, priority)

    def dequeued(self, adapter_id: int) -> None:
        """One of its requests waits no longer: it runs, or is gone."""
        adapter = self._adapters[adapter_id]
        adapter.waiting -= 1
        if not adapter.waiting:
            adapter.waits_since = None
            if not adapter.pinned:
                self._line.leave(adapter_id)
            self._lose_track(adapter)

    # Life cycle

    def is_coming(self, adapter_id: int) -> bool:
        """It is being read, or will be before anybody asks."""
        return adapter_id in self._reading

    def register(
        self,
        adapter_id: int,
        name: str,
        source: Any,
        now: float,
        *,
        load: bool = False,
        displace: bool = False,
    ) -> None:
        """Keep an adapter in mind. With `load`, read it ahead of its first request, if there is room in
        host memory; with `displace`, make room.
        """
        adapter = self._record(adapter_id, name, source, now)
        adapter.registered, adapter.removed_at = True, None
        self._removed.discard(adapter_id)
        if load and adapter.tier is Tier.DISK:
            adapter.requested(now)
            self._reading.want(adapter_id, awaited=displace)

    def pin(self, adapter_id: int, now: float) -> None:
        """Bring an adapter to the device as soon as may be and keep it there.

        ValueError when it is unknown or removed, or no slot would be left for others.
        """
        adapter = self._known(adapter_id)
        if adapter.removed_at is not None:
            raise ValueError(f"{adapter.key} cannot be pinned: it has been removed")
        pinned = sum(1 for each in self._adapters.values() if each.pinned and each is not adapter)
        if pinned + 1 >= len(self.slots):
            raise ValueError(
                f"{adapter.key} cannot be pinned: {pinned} of {len(self.slots)} slots have pinned "
                "adapters, and one must be left for the others"
            )
        adapter.pinned = True
        if adapter.tier is not Tier.DEVICE:
            self._line.join(adapter_id, PINNED_FIRST)

    def unpin(self, adapter_id: int) -> None:
        """ValueError when it is unknown."""
        adapter = self._known(adapter_id)
        adapter.pinned = False
        if adapter_id in self._line:
            self._line.leave(adapter_id)
            if adapter.waiting:
                self._line.join(adapter_id, adapter.priority)
        self._lose_track(adapter)

    def remove(self, adapter_id: int, now: float) -> None:
        """Free an adapter's memory when its requests are done. ValueError when it is unknown."""
        adapter = self._known(adapter_id)
        if adapter.pinned:
            self.unpin(adapter_id)
        adapter.registered, adapter.removed_at = False, now
        self._removed.add(adapter_id)
        self._tombstones.append((now, adapter_id))

    # The step

    def advance(self, now: float, work: Mapping[int, Work]) -> Sequence[StageFailed]:
        """Take in what was staged, fill slots, stage what is next; the adapters that failed."""
        self._observe(now, work)
        failures = self._take_reports(now)
        if self._line or self._drains or self.policy.adapters_per_batch is not None:
            self._fill_slots(now)
        self._stage(now)
        self._free_removed(now)
        return failures

    def _observe(self, now: float, work: Mapping[int, Work]) -> None:
        for adapter_id in self._running - work.keys():
            adapter = self._adapters[adapter_id]
            adapter.running = adapter.remaining = 0
            adapter.waits_since = now if adapter.waiting else None
        self._running = set(work)
        for adapter_id, each in work.items():
            adapter = self._adapters[adapter_id]
            adapter.runs_since = adapter.runs_since if adapter.running else now
            adapter.running, adapter.remaining = each.running, each.remaining
            adapter.waits_since = None

    def _take_reports(self, now: float) -> list[StageFailed]:
        failures = []
        for report in self._host.poll():
            adapter = self._adapters[report.id]
            self._reading.end(report.id)
            if isinstance(report, Staged):
                adapter.num_bytes, adapter.load_seconds = report.num_bytes, report.seconds
                adapter.move(Tier.HOST, now)
                self.memory.take(adapter)
                adapter.error = None
                self._observer.loaded(adapter.key, report.seconds, report.num_bytes)
                self._place_ahead(adapter, now)
            else:
                self._fail(adapter, report.reason, now)
                failures.append(report)
        self._make_room(0, now)
        return failures

    def _fail(self, adapter: Adapter, reason: str, now: float) -> None:
        """Who called fails its requests; the next one tries again."""
        adapter.move(Tier.DISK, now)
        adapter.pinned, adapter.error = False, reason
        self._line.leave(adapter.id)
        self._observer.load_failed(adapter.key)
        self._lose_track(adapter)

    def _place_ahead(self, adapter: Adapter, now: float) -> None:
        """A slot that nobody wants goes to what was loaded ahead."""
        if not self._line and None in self.slots and adapter.removed_at is None:
            self._place(adapter, self.slots.index(None), now)

    def _fill_slots(self, now: float) -> None:
        moves = decide(
            now,
            [Resident.of(self._adapters[each], now) for each in self.residents()],
            [slot for slot, each in enumerate(self.slots) if each is None],
            self._candidates(now),
            self.policy,
        )
        for adapter_id in moves.evict:
            self._evict(self._adapters[adapter_id], now)
        for adapter_id, slot in moves.place:
            self._place(self._adapters[adapter_id], slot, now)
        for adapter_id in self.residents():
            adapter = self._adapters[adapter_id]
            drains = adapter_id in moves.draining
            if drains and not adapter.draining:
                self._observer.drained(adapter.key)
            adapter.draining = drains
        self._drains = bool(moves.draining)

    def _candidates(self, now: float) -> list[Candidate]:
        ahead = (self._adapters[each] for each in self._ahead())
        return [
            Candidate(each.id, now if each.waits_since is None else each.waits_since, each.pinned)
            for each in ahead
            if each.tier is Tier.HOST
        ]

    def _ahead(self) -> Iterator[int]:
        return islice(self._line, len(self.slots) + LOOK_AHEAD)

    def _place(self, adapter: Adapter, slot: int, now: float) -> None:
        adapter.move(Tier.DEVICE, now)
        adapter.slot = slot
        self.slots[slot] = adapter.id
        self.memory.went_to_device(adapter)
        self._line.leave(adapter.id)
        self._host.place(adapter.id, slot)

    def _evict(self, adapter: Adapter, now: float) -> None:
        """Take its slot away. Its weights lie there until something else is placed."""
        assert adapter.slot is not None
        assert not adapter.running
        self.slots[adapter.slot] = None
        adapter.slot, adapter.draining = None, False
        adapter.move(Tier.HOST, now)
        self.memory.left_device(adapter)
        self._observer.evicted(adapter.key, Tier.DEVICE)
        if adapter.waiting:
            adapter.waits_since = now
            self._line.join(adapter.id, adapter.priority)

    def _stage(self, now: float) -> None:
        """Begin to read: what somebody waits for, those in the line, what is wanted ahead."""
        while not self._reading.is_full and (wanted := self._reading.next_awaited()) is not None:
            if self._is_unread(wanted):
                self._begin(wanted, now, displace=True)
        for adapter_id in self._ahead():
            if self._reading.is_full:
                return
            if self._adapters[adapter_id].tier is Tier.DISK and not self._begin(adapter_id, now):
                return
        while not self._reading.is_full and (wanted := self._reading.next_if_room()) is not None:
            if not self._has_room():
                self._reading.give_up_rest()
            elif self._is_unread(wanted):
                self._begin(wanted, now)

    def _is_unread(self, adapter_id: int) -> bool:
        adapter = self._adapters.get(adapter_id)
        return adapter is not None and adapter.registered and adapter.tier is Tier.DISK

    def _has_room(self) -> bool:
        return self.memory.excess(self.memory.expected(len(self._reading) + 1)) <= 0

    def _begin(self, adapter_id: int, now: float, *, displace: bool = False) -> bool:
        """Start to read an adapter if there is, or can be made, room for it.

        One is let in over the budget when otherwise nothing would ever move, or with `displace`.
        """
        if not self._make_room(self.memory.expected(len(self._reading) + 1), now):
            stuck = not len(self._reading) and not self._candidates(now)
            if not (stuck or displace):
                return False
        adapter = self._adapters[adapter_id]
        adapter.move(Tier.STAGING, now)
        self._reading.begin(adapter_id)
        self._host.stage(adapter_id, adapter.source)
        return True

    def _make_room(self, num_bytes: int, now: float) -> bool:
        """Forget the least worthy that nobody uses, until so many bytes more fit."""
        excess = self.memory.excess(num_bytes)
        for victim in self.memory.victims(excess, now) if excess > 0 else ():
            self._forget(victim, now)
            self._observer.evicted(victim.key, Tier.HOST)
        return self.memory.excess(num_bytes) <= 0

    def _forget(self, adapter: Adapter, now: float) -> None:
        adapter.move(Tier.DISK, now)
        self.memory.give_back(adapter)
        self._host.drop(adapter.id)
        self._lose_track(adapter)

    def _lose_track(self, adapter: Adapter) -> None:
        """Keep no record of what nobody asks for, nor has registered, nor holds memory."""
        wanted = adapter.registered or adapter.pinned or adapter.is_used
        kept = wanted or adapter.removed_at is not None
        if adapter.tier is Tier.DISK and not kept:
            del self._adapters[adapter.id]

    def _free_removed(self, now: float) -> None:
        for adapter_id in list(self._removed):
            adapter = self._adapters.get(adapter_id)
            if adapter is not None and (adapter.is_used or adapter.tier is Tier.STAGING):
                continue
            self._removed.remove(adapter_id)
            if adapter is not None and adapter.slot is not None:
                self._host.clear(adapter.slot)
                self._evict(adapter, now)
            if adapter is not None and adapter.tier is Tier.HOST:
                self._forget(adapter, now)
        while self._tombstones and now - self._tombstones[0][0] > REMEMBERED:
            self._bury(*self._tombstones.popleft())

    def _bury(self, removed_at: float, adapter_id: int) -> None:
        """Forget that there was such an adapter, unless it has come back or still has requests."""
        adapter = self._adapters.get(adapter_id)
        if adapter is not None and adapter.removed_at == removed_at:
            adapter.removed_at = None
            self._lose_track(adapter)

    def _record(self, adapter_id: int, name: str, source: Any, now: float) -> Adapter:
        adapter = self._adapters.get(adapter_id)
        if adapter is not None and adapter.name != name and adapter.is_gone:
            adapter = None  # vLLM lets an id that was removed be given again
        if adapter is None:
            adapter = self._adapters[adapter_id] = Adapter(adapter_id, name, source, now)
        elif adapter.name != name:
            raise IdentityTaken(f"adapter id {adapter_id} is {adapter.name}, not {name}")
        return adapter

    def _known(self, adapter_id: int) -> Adapter:
        adapter = self._adapters.get(adapter_id)
        if adapter is None:
            raise ValueError(f"no adapter has the id {adapter_id}")
        return adapter

    def check_integrity(self) -> None:
        """Raise AssertionError when the records and what is derived from them differ. For tests."""
        in_slots = {each: slot for slot, each in enumerate(self.slots) if each is not None}
        assert len(in_slots) == len(self.residents()), "an adapter has two slots"
        for adapter in self._adapters.values():
            on_device = adapter.tier is Tier.DEVICE
            assert adapter.slot == in_slots.get(adapter.id), f"slot of {adapter.name}"
            assert on_device == (adapter.slot is not None), adapter.name
            assert on_device or not (adapter.running or adapter.draining), adapter.name
            assert (adapter.tier is Tier.STAGING) == (adapter.id in self._reading.under_way), (
                adapter.name
            )
            waits = not on_device and (adapter.waiting > 0 or adapter.pinned)
            assert (adapter.id in self._line) == waits, f"{adapter.name} waits"
        assert len(self._reading) == sum(each.tier is Tier.STAGING for each in self)
        self.memory.check_integrity(list(self._adapters.values()))
