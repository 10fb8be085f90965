"""The due timer: wakes lanes when the tasks that wait in them become due."""

import asyncio

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from broker.events import wait_until
from broker.store.store import Store
from broker.store.tables import in_state, tasks
from broker.store.writer import Transaction
from protocols.clock import Clock
from protocols.errors import WarrenError
from protocols.states import Priority, TaskState

_LONGEST_S = 5.0
_AGAIN_S = 1.0
"""How soon lanes that stay due are looked at again: their windows are full, and every start refills them."""

_SCHEDULED_LANES = sa.text(
    """
    WITH RECURSIVE found(lane) AS (
        SELECT (SELECT lane FROM tasks WHERE state = 'scheduled' ORDER BY lane, priority, due_at, id LIMIT 1)
        UNION ALL
        SELECT (
            SELECT lane FROM tasks WHERE state = 'scheduled' AND lane > found.lane
            ORDER BY lane, priority, due_at, id LIMIT 1
        )
        FROM found WHERE found.lane IS NOT NULL
    )
    SELECT lane FROM found WHERE lane IS NOT NULL
    """
)
"""One index seek per lane, where DISTINCT would read every waiting task. They are ordered as no other index is."""
_EARLIEST = sa.select(sa.func.min(tasks.c.due_at)).where(
    in_state(TaskState.SCHEDULED),
    tasks.c.lane == sa.bindparam("lane"),
    tasks.c.priority == sa.bindparam("level"),
)
_NEXT = sa.select(sa.func.min(tasks.c.due_at)).where(
    in_state(TaskState.SCHEDULED), tasks.c.due_at > sa.bindparam("now")
)

_log = structlog.get_logger(__name__)


class DueTimer:
    """Sleeps until the next due time. Belongs to the event loop."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._sooner = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._next: int | None = None

    def expect(self, due_at: int) -> None:
        """A task becomes due at this time (milliseconds); from any thread."""
        if self._next is None or due_at < self._next:
            self._loop.call_soon_threadsafe(self._sooner.set)

    async def run(self) -> None:
        """Wake due lanes until cancelled."""
        while True:
            self._sooner.clear()
            try:
                wait_s = await self._wake_due()
            except WarrenError as error:
                _log.error("due_timer_failed", error=error.message)
                wait_s = _AGAIN_S
            await wait_until(self._sooner, wait_s)

    async def _wake_due(self) -> float:
        now = self._clock.now()
        lanes, self._next = await asyncio.wrap_future(self._store.read(lambda connection: due_lanes(connection, now)))
        if lanes:
            await asyncio.wrap_future(self._store.writer.write(lambda transaction: _wake(transaction, lanes)))
        until_next = _LONGEST_S if self._next is None else (self._next - self._clock.now()) / 1000
        return max(0.0, min(until_next, _AGAIN_S if lanes else _LONGEST_S))


def _wake(transaction: Transaction, lanes: list[str]) -> None:
    for lane in lanes:
        transaction.wake(lane)


def due_lanes(connection: Connection, now: int) -> tuple[list[str], int | None]:
    """Return the lanes in which tasks are due, and when the next one becomes due (milliseconds)."""
    lanes = [
        lane for lane in waiting_lanes(connection) if any(_is_due(connection, lane, level, now) for level in Priority)
    ]
    return lanes, connection.execute(_NEXT, {"now": now}).scalar()


def waiting_lanes(connection: Connection) -> list[str]:
    """Return the lanes that have scheduled tasks, in order."""
    return list(connection.execute(_SCHEDULED_LANES).scalars())


def _is_due(connection: Connection, lane: str, level: Priority, now: int) -> bool:
    earliest = connection.execute(_EARLIEST, {"lane": lane, "level": level.value}).scalar()
    return earliest is not None and earliest <= now
