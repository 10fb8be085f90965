"""The worker's regular report about itself."""

import asyncio
import time
from collections.abc import Callable

from protocols.frames import DownFrame, Heartbeat, Welcome
from worker.outbox import Outbox
from worker.resources import ResourceMeter
from worker.service import Service
from worker.session import SessionListener
from worker.slots import SlotTable

SHORTEST_PERIOD_S = 0.1


class HeartbeatSender(Service, SessionListener):
    """Sends a heartbeat when a session opens, then as often as the control plane wants it, and on request."""

    def __init__(
        self,
        outbox: Outbox,
        meter: ResourceMeter,
        slots: SlotTable,
        *,
        version: str,
        unsettled: Callable[[], int],
        draining: Callable[[], bool],
    ) -> None:
        super().__init__()
        self._outbox = outbox
        self._meter = meter
        self._slots = slots
        self._version = version
        self._unsettled = unsettled
        self._draining = draining
        self._began = time.monotonic()
        self._period_s: float | None = None
        self._due = asyncio.Event()

    def connected(self, welcome: Welcome) -> None:
        """Send one at once."""
        self._period_s = max(welcome.heartbeat_s, SHORTEST_PERIOD_S)
        self._due.set()

    def disconnected(self) -> None:
        """Send none."""
        self._period_s = None

    def received(self, frame: DownFrame) -> None:
        """Nothing that comes concerns it."""

    def send_now(self) -> None:
        """Tell a change at once."""
        self._due.set()

    async def run(self) -> None:
        """Send heartbeats while there is a session."""
        while True:
            try:
                async with asyncio.timeout(self._period_s):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._due.clear()
            if self._period_s is not None:
                self._outbox.send(self._heartbeat())

    def _heartbeat(self) -> Heartbeat:
        now = time.monotonic()
        usage = self._meter.read(now)
        return Heartbeat(
            cpu_percent=usage.cpu_percent,
            cpus=usage.cpus,
            memory_percent=usage.memory_percent,
            memory_used_bytes=usage.memory_used_bytes,
            memory_total_bytes=usage.memory_total_bytes,
            disk_percent=usage.disk_percent,
            load_1m=usage.load_1m,
            container=usage.container,
            slots=self._slots.usage(),
            unsettled=self._unsettled(),
            uptime_s=now - self._began,
            version=self._version,
            draining=self._draining(),
        )
