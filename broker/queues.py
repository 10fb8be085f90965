"""Queues: what people see of lanes, and how they pause them.

A pause is a row. The dispatcher fills no lane that has one, and what is in the lane's window by then is put back,
so that nothing of it can pass the gate any more. What runs is left alone.
"""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from broker.audit import record
from broker.counting import counted, is_exact, shown
from broker.dispatch import StartRate
from broker.due import waiting_lanes
from broker.events import general_event
from broker.roll import provider_names, worker_lanes
from broker.store.database import dicts, insert_new
from broker.store.tables import in_state, paused_lanes, tasks, workers
from broker.store.writer import Transaction, Writer
from broker.transitions import put_back
from protocols.clock import Clock
from protocols.errors import NotFound
from protocols.lanes.direct import DirectBroker
from protocols.names import LaneKind, lane_parts
from protocols.states import Approval, Priority, TaskState

BITE = 200
"""Most tasks that one transaction puts back."""

_IN_LANE = (in_state(TaskState.SCHEDULED), tasks.c.lane == sa.bindparam("lane"))
_NOW = sa.bindparam("now", type_=sa.BigInteger)


def _number(due: sa.ColumnElement[bool]) -> sa.ScalarSelect[int]:
    # With the priorities a condition on the due time is a range of the index.
    of_any = tasks.c.priority.in_([sa.literal_column(str(level.value)) for level in Priority])
    return counted(sa.select(tasks.c.id).where(*_IN_LANE, of_any, due))


_earliest = sa.union_all(
    *(
        sa.select(sa.func.min(tasks.c.due_at).label("due_at")).where(*_IN_LANE, tasks.c.priority == level.value)
        for level in Priority
    )
).subquery()
_WAITING = sa.select(
    _number(tasks.c.due_at <= _NOW).label("due"),
    _number(tasks.c.due_at.is_(None)).label("parked"),
    _number(tasks.c.due_at > _NOW).label("delayed"),
    sa.select(sa.func.min(_earliest.c.due_at)).scalar_subquery().label("earliest"),
)
_IN_WINDOW = (
    sa.select(tasks.c.lane, sa.func.count().label("number")).where(in_state(TaskState.QUEUED)).group_by(tasks.c.lane)
)
# So that the planner looks for what runs, and not for the order of an index in which every task is.
_lane: sa.ColumnElement[str] = sa.func.coalesce(tasks.c.lane, sa.null())
_RUNNING = (
    sa.select(_lane.label("lane"), sa.func.count().label("number")).where(in_state(TaskState.RUNNING)).group_by(_lane)
)
_PAUSES = sa.select(paused_lanes)
_QUEUED_IN_PAUSED = (
    # Without the inputs, which may be large and are not needed for it.
    sa.select(*(column for column in tasks.c if not isinstance(column.type, sa.LargeBinary)))
    .where(in_state(TaskState.QUEUED), tasks.c.lane.in_(sa.select(paused_lanes.c.lane)))
    .limit(BITE)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A lane as people see it. Times in milliseconds."""

    name: str
    kind: LaneKind
    pool: str | None
    provider: str | None
    worker_id: str | None
    waiting: int
    """Tasks that could start if there were room: due, or waiting for their concurrency key."""
    delayed: int
    counts_are_exact: bool
    """Whether `waiting` and `delayed` are; if not, one that is the limit of counting (`broker.counting`) is more."""
    queued: int
    running: int
    oldest_waiting_at: int | None
    """Since when the first of the due ones waits."""
    starts_per_s: float
    consumers: int
    paused: bool
    paused_at: int | None
    paused_by: str | None
    reason: str | None


class Queues:
    """Looks at queues, pauses them and lets them go on."""

    def __init__(self, writer: Writer, clock: Clock, lanes: DirectBroker, starts: StartRate) -> None:
        self._writer = writer
        self._clock = clock
        self._lanes = lanes
        self._starts = starts

    def describe(self, connection: Connection, names: Sequence[str]) -> list[Queue]:
        """Return these queues, in the order of their names; lanes that have nothing are empty queues."""
        now = self._clock.now()
        queued, running, pauses = (_by_lane(connection, query) for query in (_IN_WINDOW, _RUNNING, _PAUSES))
        return [
            self._queue(
                name,
                now,
                connection.execute(_WAITING, {"lane": name, "now": now}).one(),
                queued.get(name),
                running.get(name),
                pauses.get(name),
            )
            for name in names
        ]

    async def pause(self, lane: str, reason: str, actor: str) -> None:
        """Let nothing more of a queue start; pausing a paused one changes nothing. Raises NotFound."""
        await asyncio.wrap_future(self._writer.write(lambda transaction: self._pause(transaction, lane, reason, actor)))
        while await asyncio.wrap_future(self._writer.write(empty_paused)):
            pass

    def resume(self, lane: str, reason: str, actor: str) -> Future[None]:
        """Let a queue go on where it was; one that is not paused stays as it is. Fails with NotFound."""
        return self._writer.write(lambda transaction: _resume(transaction, lane, reason, actor))

    def _pause(self, transaction: Transaction, lane: str, reason: str, actor: str) -> None:
        require_queue(transaction.connection, lane)
        row = {"lane": lane, "reason": reason or None, "paused_at": transaction.now, "paused_by": actor}
        new = transaction.connection.execute(insert_new(transaction.connection, paused_lanes).values(row))
        if new.rowcount:
            _tell(transaction, "queue.paused", lane, reason, actor)
            # Of no use any more: what it holds is published anew when the queue goes on.
            transaction.after_commit(partial(self._lanes.flush, lane))

    def _queue(
        self,
        name: str,
        now: int,
        scheduled: sa.Row[Any],
        queued: Mapping[str, Any] | None,
        running: Mapping[str, Any] | None,
        pause: Mapping[str, Any] | None,
    ) -> Queue:
        parts = lane_parts(name)
        waiting = scheduled.due + scheduled.parked
        return Queue(
            name=name,
            kind=parts.kind,
            pool=parts.pool,
            provider=parts.provider,
            worker_id=parts.worker_id,
            waiting=shown(waiting),
            delayed=shown(scheduled.delayed),
            counts_are_exact=is_exact(waiting) and is_exact(scheduled.delayed),
            queued=queued["number"] if queued else 0,
            running=running["number"] if running else 0,
            oldest_waiting_at=scheduled.earliest if scheduled.due else None,
            starts_per_s=round(self._starts.per_second(name), 3),
            consumers=self._lanes.consumers(name),
            paused=pause is not None,
            paused_at=pause["paused_at"] if pause else None,
            paused_by=pause["paused_by"] if pause else None,
            reason=pause["reason"] if pause else None,
        )


def queue_names(connection: Connection) -> list[str]:
    """Return every queue that there is, sorted: lanes of approved workers, of unfinished tasks, and paused ones."""
    names = set(waiting_lanes(connection))
    for query in (_IN_WINDOW, _RUNNING, _PAUSES):
        names |= _by_lane(connection, query).keys()
    providers = provider_names(connection)
    approved = sa.select(workers.c.id, workers.c.pools).where(workers.c.approval == Approval.APPROVED.value)
    for worker in connection.execute(approved):
        names.update(worker_lanes(worker.id, worker.pools, providers))
    return sorted(names)


def require_queue(connection: Connection, lane: str) -> None:
    """Raise NotFound unless there is a queue of this name."""
    if lane not in queue_names(connection):
        raise NotFound(
            f"there is no queue {lane[:200]!r}",
            hint="a queue is called q.t.<pool>.<provider, ssh or python> or q.t.w.<worker id>, and is there as soon as "
            "a worker serves it or a task waits in it: GET /queues lists them",
        )


def empty_paused(transaction: Transaction) -> int:
    """Put back what is queued in paused lanes, up to a bite; returns how many tasks, 0 if there were none left."""
    queued = [row._asdict() for row in transaction.connection.execute(_QUEUED_IN_PAUSED)]
    for task in queued:
        put_back(transaction, task, "its queue was paused")
    return len(queued)


def _resume(transaction: Transaction, lane: str, reason: str, actor: str) -> None:
    require_queue(transaction.connection, lane)
    gone = transaction.connection.execute(paused_lanes.delete().where(paused_lanes.c.lane == lane))
    if gone.rowcount:
        _tell(transaction, "queue.resumed", lane, reason, actor)
        transaction.wake(lane)


def _tell(transaction: Transaction, kind: str, lane: str, reason: str, actor: str) -> None:
    transaction.events.append(general_event(kind, {"queue": lane, "reason": reason, "by": actor}))
    record(transaction, actor, kind, lane, {"reason": reason})


def _by_lane(connection: Connection, query: sa.Select[*tuple[Any, ...]]) -> dict[str, Mapping[str, Any]]:
    return {row["lane"]: row for row in dicts(connection.execute(query))}
