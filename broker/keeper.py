"""The keeper: pings sessions, notices silence, and ends the leases of workers that do not come back.

Silence is judged by the monotonic clock, without the time in which this process itself stood still, and after
the sockets have been read.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import structlog

from broker.leases import Leases
from broker.roll import Roll, live_sessions
from broker.sessions import Session
from broker.settings import Settings
from broker.store.store import Store
from protocols.clock import Clock
from protocols.errors import Unavailable, WarrenError

TICK_S = 0.25
_STALL_S = 0.5
"""A tick that comes this much late means that this process stood still."""
_GIVE_UP_EVERY_S = 2.0
_COMMIT_FAILING_S = 5.0
_MASS_LOSS_POOL = 5
"""From this size on, a pool of which more than half vanishes at once gets the longer grace."""

T = TypeVar("T")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Absent:
    """A session whose connection is gone."""

    pools: frozenset[str]
    left_at: float
    grace_s: float


class SessionKeeper:
    """Watches the sessions of one control plane. Belongs to the event loop."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        store: Store,
        leases: Leases,
        roll: Roll,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._store = store
        self._leases = leases
        self._roll = roll
        self._online: Callable[[], list[Session]] = list
        self._absent: dict[tuple[str, int], _Absent] = {}
        self._pings = 0
        self._background: set[asyncio.Future[None]] = set()

    def opened(self, session: Session) -> None:
        """A session is live: nobody waits for it any more."""
        for key in [key for key in self._absent if key[0] == session.worker_id]:
            del self._absent[key]

    def closed(self, session: Session, *, clean: bool) -> None:
        """A session's connection is gone; give it time to come back unless the worker said goodbye."""
        if clean:
            self._do(self._roll.leave(session.worker_id, session.epoch))
            return
        now = self._clock.monotonic()
        # One that was cut off for its silence has had its time already.
        grace_s = 0.0 if self._is_silent(session, now) else self._settings.resume_s
        self._absent[session.worker_id, session.epoch] = _Absent(session.pools, now, grace_s)
        self._do(self._roll.suspect(session.worker_id, session.epoch))

    async def adopt_orphans(self) -> None:
        """Give the sessions that an earlier control plane left behind their time to come back."""
        for key in await asyncio.wrap_future(self._store.read(live_sessions)):
            self._absent[key] = _Absent(frozenset(), self._clock.monotonic(), self._settings.orphan_s)

    async def run(self, online: Callable[[], list[Session]]) -> None:
        """Keep watch over the sessions that `online` returns, until cancelled."""
        self._online = online
        expected = self._clock.monotonic() + TICK_S
        next_ping = next_give_up = 0.0
        while True:
            await asyncio.sleep(TICK_S)
            await _let_sockets_be_read()
            now = self._clock.monotonic()
            self._forgive(now - expected)
            expected = now + TICK_S
            if now >= next_ping:
                next_ping = now + self._settings.ping_s
                self._ping()
            if self._store.writer.failing_for() > _COMMIT_FAILING_S:
                self._close_all()
                continue
            self._judge_silence(now)
            await self._judge_absence(now)
            if now >= next_give_up:
                next_give_up = now + _GIVE_UP_EVERY_S
                before = self._clock.now() - int(self._settings.at_most_once_s * 1000)
                await _survive(asyncio.wrap_future(self._leases.give_up(before)))

    def _forgive(self, late: float) -> None:
        if late > _STALL_S:
            _log.warning("control_plane_stalled", seconds=round(late, 1))
            for session in self._online():
                session.heard_at += late
            self._absent = {
                key: _Absent(absent.pools, absent.left_at + late, absent.grace_s)
                for key, absent in self._absent.items()
            }

    def _ping(self) -> None:
        self._pings += 1
        for session in self._online():
            session.ping(self._pings)

    def _close_all(self) -> None:
        for session in self._online():
            session.end(Unavailable("the control plane cannot write to its database"))

    def _judge_silence(self, now: float) -> None:
        for session in self._online():
            if self._is_silent(session, now):
                _log.warning("session_silent", worker=session.worker_id, epoch=session.epoch)
                session.cut()

    def _is_silent(self, session: Session, now: float) -> bool:
        return now - session.heard_at > self._settings.silence_s

    async def _judge_absence(self, now: float) -> None:
        for key, absent in list(self._absent.items()):
            grace = self._settings.orphan_s if self._is_mass_loss(absent, now) else absent.grace_s
            if now - absent.left_at >= grace and key in self._absent:
                ended = await _survive(asyncio.wrap_future(self._leases.end(*key, "its session did not come back")))
                if ended is not None:
                    self._absent.pop(key, None)

    def _is_mass_loss(self, absent: _Absent, now: float) -> bool:
        for pool in absent.pools:
            gone = sum(
                pool in other.pools and now - other.left_at < self._settings.orphan_s for other in self._absent.values()
            )
            here = sum(pool in session.pools for session in self._online())
            if gone + here >= _MASS_LOSS_POOL and gone > here:
                return True
        return False

    def _do(self, write: Future[None]) -> None:
        task = asyncio.ensure_future(_survive(asyncio.wrap_future(write)))
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _let_sockets_be_read() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def _survive(work: Awaitable[T]) -> T | None:
    """Return what `work` gives, or None if the database refused it; the next tick tries again."""
    try:
        return await work
    except WarrenError as error:
        _log.error("keeper_write_failed", error=error.message)
        return None
