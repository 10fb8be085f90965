"""Handing outcomes over: kept output, then outcome, then, once it is stored, the delivery's acknowledgement."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog

from protocols.errors import WarrenError
from protocols.frames import DownFrame, Kept, Outcomes, OutcomesStored, UpFrame, Welcome
from protocols.outcome import OutcomeReport
from worker.outbox import Outbox
from worker.service import Service
from worker.session import SessionListener
from worker.spool import Spool

log = structlog.get_logger(__name__)

T = TypeVar("T")

SPOOL_AFTER_S = 2.0
"""An outcome that is not answered for so long goes to disk."""
REPEAT_AFTER_S = 15.0
"""An outcome that is not answered for so long within one session is sent once more."""
CHECK_S = 0.5
SPOOL_RETRY_S = 5.0
MAX_REPEATING = 32
"""Outcomes under way at once when a backlog is sent: each may carry a megabyte of output."""


@dataclass(slots=True)
class _Unsettled:
    execution_id: str
    frames: tuple[UpFrame, ...] | None
    """None when they are only on disk."""
    ack: Callable[[], None] | None
    ended_at: float
    sent_at: float | None = None
    spooled: bool = False
    spool_at: float = 0.0
    held: bool = False
    """On its way to disk, before which it is not sent."""


class Settler(Service, SessionListener):
    """Keeps every outcome until the control plane has stored it, through breaks, restarts and a full disk."""

    def __init__(self, outbox: Outbox, spool_path: Path, most: int) -> None:
        super().__init__()
        self._outbox = outbox
        self._spool = Spool(spool_path)
        self._most = most
        self._unsettled: dict[str, _Unsettled] = {}
        self._changed = asyncio.Event()
        self._connected = False
        # One thread: what is written and what is removed happens in the order in which it was asked for.
        self._disk: ThreadPoolExecutor | None = None

    @property
    def unsettled(self) -> tuple[str, ...]:
        """Executions whose outcomes wait to be stored."""
        return tuple(self._unsettled)

    async def room(self) -> None:
        """Wait until one more outcome may be left unsettled."""
        while len(self._unsettled) >= self._most:
            await self._change()

    async def settle(
        self, report: OutcomeReport, kept: tuple[Kept, ...], ack: Callable[[], None], *, durable_first: bool
    ) -> None:
        """Take over an outcome. With `durable_first` it is on disk before it is sent, if the disk allows."""
        frames: tuple[UpFrame, ...] = (*kept, Outcomes(items=(report,)))
        entry = _Unsettled(report.execution_id, frames, ack, time.monotonic(), spool_at=SPOOL_AFTER_S)
        entry.held = durable_first
        self._unsettled[entry.execution_id] = entry
        self._notify()
        if durable_first:
            await self._store(entry)
            entry.held = False
        self._send(entry)

    async def flush(self, timeout_s: float) -> None:
        """Wait until everything is stored by the control plane or, failing that, on disk."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._unsettled and self._connected:
                    await self._change()
        except TimeoutError:
            log.warning("outcomes are left for the next start", count=len(self._unsettled))
        for entry in [entry for entry in self._unsettled.values() if not entry.spooled]:
            await self._store(entry)

    def connected(self, welcome: Welcome) -> None:
        """Send everything again."""
        del welcome
        self._connected = True
        for entry in self._unsettled.values():
            entry.sent_at = None
        self._notify()

    def disconnected(self) -> None:
        """Nothing is under way any more."""
        self._connected = False
        self._notify()

    def received(self, frame: DownFrame) -> None:
        """Acknowledge what is stored."""
        if isinstance(frame, OutcomesStored):
            for execution_id in frame.execution_ids:
                entry = self._unsettled.pop(execution_id, None)
                if entry is not None:
                    self._forget(entry)
            self._notify()

    async def open(self) -> None:
        """Find what an earlier process left."""
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="spool")
        for execution_id in await self._on_disk(self._spool.open):
            if execution_id not in self._unsettled:
                left = _Unsettled(execution_id, None, None, time.monotonic(), spooled=True)
                self._unsettled[execution_id] = left

    async def run(self) -> None:
        """Send what waits, and put on disk what waits too long."""
        while True:
            await self._send_waiting()
            now = time.monotonic()
            for entry in list(self._unsettled.values()):
                if not entry.spooled and now - entry.ended_at >= entry.spool_at:
                    await self._store(entry)
            try:
                async with asyncio.timeout(CHECK_S if self._unsettled else None):
                    await self._change()
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Let the disk finish."""
        disk, self._disk = self._disk, None
        if disk is not None:
            await asyncio.to_thread(disk.shutdown)

    async def _send_waiting(self) -> None:
        now = time.monotonic()
        for entry in list(self._unsettled.values())[:MAX_REPEATING]:
            if not self._connected:
                return
            if not entry.held and (entry.sent_at is None or now - entry.sent_at >= REPEAT_AFTER_S):
                await self._load(entry)
                self._send(entry)

    async def _load(self, entry: _Unsettled) -> None:
        if entry.frames is None:
            entry.frames = await self._on_disk(self._spool.read, entry.execution_id)
            if entry.frames is None:
                self._unsettled.pop(entry.execution_id, None)

    def _send(self, entry: _Unsettled) -> None:
        if not self._connected or entry.frames is None or entry.execution_id not in self._unsettled:
            return
        for frame in entry.frames:
            self._outbox.send(frame)
        entry.sent_at = time.monotonic()
        if entry.spooled:
            entry.frames = None
        self._notify()

    async def _store(self, entry: _Unsettled) -> None:
        if entry.frames is None or entry.spooled:
            return
        try:
            await self._on_disk(self._spool.write, entry.execution_id, entry.frames)
        except WarrenError as error:
            waited = time.monotonic() - entry.ended_at
            entry.spool_at = waited + SPOOL_RETRY_S
            log.critical("an outcome is kept in memory only", execution_id=entry.execution_id, reason=error.message)
            return
        entry.spooled = True
        if entry.execution_id not in self._unsettled:
            self._forget(entry)
        elif entry.sent_at is not None:
            entry.frames = None

    def _forget(self, entry: _Unsettled) -> None:
        if entry.spooled and self._disk is not None:
            self._disk.submit(self._spool.remove, entry.execution_id)
        if entry.ack is not None:
            entry.ack()
            entry.ack = None

    async def _on_disk(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work, *args)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _change(self) -> None:
        await self._changed.wait()
