"""How much a worker runs at once.

Every lane has its own slots, so that a lane whose provider hangs takes none from another. Prefetch alone would
not do: after a session was resumed, its consumers get fresh credit while what they delivered before still runs.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from protocols.frames import Slots
from protocols.names import LaneKind, lane_kind


class LaneSlots:
    """The slots of one lane."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.busy = 0
        self._free = asyncio.Semaphore(total)

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Hold a slot, waiting for one if need be."""
        async with self._free:
            self.busy += 1
            try:
                yield
            finally:
                self.busy -= 1


class SlotTable:
    """The slots of every lane that the worker has consumed."""

    def __init__(self, per_lane: Mapping[LaneKind, int]) -> None:
        self._per_lane = per_lane
        self._lanes: dict[str, LaneSlots] = {}
        self._consumed: frozenset[str] = frozenset()

    def lane(self, lane: str) -> LaneSlots:
        """Return a lane's slots; raises InvalidName for anything that is no lane."""
        if lane not in self._lanes:
            self._lanes[lane] = LaneSlots(self._per_lane[lane_kind(lane)])
        return self._lanes[lane]

    def consume(self, lanes: frozenset[str]) -> None:
        """From now on only `lanes` count as capacity."""
        self._consumed = lanes
        for lane in [lane for lane, slots in self._lanes.items() if lane not in lanes and not slots.busy]:
            del self._lanes[lane]

    def usage(self) -> dict[str, Slots]:
        """Return busy and total slots by lane kind; what still runs from a lost lane counts as both."""
        usage: dict[str, Slots] = {}
        for lane, slots in self._lanes.items():
            kind = lane_kind(lane).value
            before = usage.get(kind, Slots(busy=0, total=0))
            total = slots.total if lane in self._consumed else slots.busy
            usage[kind] = Slots(busy=before.busy + slots.busy, total=before.total + total)
        return usage
