"""The sweeper: ends what is past its deadline, and mends what would break the ownership invariant.

Everything here is rare; each step takes a bounded bite and leaves the rest for the next round.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from broker.leases import lose, running_rows
from broker.queues import empty_paused
from broker.settings import Settings
from broker.store.store import Store
from broker.store.tables import batches, executions, in_state, sessions, tasks
from broker.store.writer import Transaction
from broker.transitions import die, put_back
from protocols.clock import Clock
from protocols.errors import WarrenError
from protocols.lanes.seam import LaneBroker
from protocols.states import CauseOfDeath, TaskState

_BITE = 200
_QUEUED = TaskState.QUEUED.value
_SCHEDULED = TaskState.SCHEDULED.value

_log = structlog.get_logger(__name__)


class Sweeper:
    """Looks over the database every few seconds. Belongs to the event loop."""

    def __init__(self, *, settings: Settings, clock: Clock, store: Store, lanes: LaneBroker, transport: str) -> None:
        self._settings = settings
        self._clock = clock
        self._store = store
        self._lanes = lanes
        self._transport = transport
        self._empty_since: dict[str, float] = {}

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                await self.sweep()
            except WarrenError as error:
                _log.error("sweep_failed", error=error.message)
            await asyncio.sleep(self._settings.sweep_s)

    async def sweep(self) -> None:
        """Sweep once."""
        # The one of the pauses finishes those that broke off after they had been noted.
        steps: list[Callable[[Transaction], object]] = [
            _expire,
            _wake_keys,
            _lose_unleased,
            empty_paused,
            self._republish_unconfirmed,
        ]
        lost = self._lanes_that_lost(await asyncio.wrap_future(self._store.read(_queued_lanes)))
        steps.extend(_Republish(lane, confirmed_before) for lane, confirmed_before in lost)
        for step in steps:
            await asyncio.wrap_future(self._store.writer.write(step))

    def forget_other_transports(self, transaction: Transaction) -> None:
        """Publish anew what earlier control planes had in their memory (at the start, before workers come)."""
        gone = (
            sa.select(tasks)
            .outerjoin(batches, batches.c.id == tasks.c.batch_id)
            .where(
                in_state(TaskState.QUEUED),
                sa.or_(batches.c.id.is_(None), batches.c.transport != self._transport),
            )
        )
        _put_back_all(transaction, gone, "the control plane restarted")
        transaction.connection.execute(batches.delete().where(batches.c.transport != self._transport))

    def _republish_unconfirmed(self, transaction: Transaction) -> None:
        before = transaction.now - int(self._settings.confirm_s * 1000)
        stale = (
            sa.select(tasks)
            .join(batches, batches.c.id == tasks.c.batch_id)
            .where(
                in_state(TaskState.QUEUED),
                batches.c.confirmed_at.is_(None),
                batches.c.published_at < before,
            )
        )
        _put_back_all(transaction, stale.limit(_BITE), "its batch was not confirmed")

    def _lanes_that_lost(self, lanes: list[str]) -> list[tuple[str, int]]:
        """Return lanes that have been empty for a while although tasks count as queued in them."""
        now = self._clock.monotonic()
        empty = {lane for lane in lanes if self._lanes.depth(lane) == 0}
        self._empty_since = {lane: self._empty_since.get(lane, now) for lane in empty}
        age = int(self._settings.lost_in_lane_s * 1000)
        return [
            (lane, self._clock.now() - age)
            for lane, since in self._empty_since.items()
            if now - since >= self._settings.lost_in_lane_s
        ]


class _Republish:
    """Publishes anew what was confirmed before a time and is still queued in a lane that is empty."""

    def __init__(self, lane: str, confirmed_before: int) -> None:
        self._lane = lane
        self._confirmed_before = confirmed_before

    def __call__(self, transaction: Transaction) -> None:
        lost = (
            sa.select(tasks)
            .join(batches, batches.c.id == tasks.c.batch_id)
            .where(
                in_state(TaskState.QUEUED),
                tasks.c.lane == self._lane,
                batches.c.confirmed_at < self._confirmed_before,
            )
        )
        _put_back_all(transaction, lost.limit(_BITE), "its lane lost it")


def _queued_lanes(connection: Connection) -> list[str]:
    # Windows are small, so this reads few rows.
    found = connection.execute(sa.select(tasks.c.lane).where(in_state(TaskState.QUEUED)).distinct())
    return list(found.scalars())


def _expire(transaction: Transaction) -> None:
    late = sa.select(tasks).where(
        tasks.c.deadline_at <= transaction.now, tasks.c.state.in_((_SCHEDULED, _QUEUED, "awaiting_approval"))
    )
    for task in _rows(transaction, late.limit(_BITE)):
        die(
            transaction,
            task,
            CauseOfDeath.DEADLINE,
            error_code="deadline",
            error_message="its deadline passed before it could start",
        )


def _wake_keys(transaction: Transaction) -> None:
    """Wake tasks that wait for a concurrency key with a free place."""
    other = tasks.alias()
    holders = (
        sa.select(sa.func.count())
        .where(other.c.concurrency_key == tasks.c.concurrency_key, other.c.state.in_((_QUEUED, "running")))
        .scalar_subquery()
    )
    forgotten = sa.select(tasks.c.id, tasks.c.lane).where(
        in_state(TaskState.SCHEDULED),
        tasks.c.due_at.is_(None),
        sa.or_(tasks.c.concurrency_key.is_(None), holders < tasks.c.concurrency_limit),
    )
    for row in transaction.connection.execute(forgotten.limit(_BITE)).all():
        transaction.connection.execute(
            tasks.update().where(tasks.c.id == row.id).values(due_at=transaction.now, wait_reason=None)
        )
        transaction.wake(row.lane)


def _lose_unleased(transaction: Transaction) -> None:
    """End what runs under a session that does not exist, or at_least_once under one whose lease has ended."""
    unleased = (
        running_rows()
        .outerjoin(
            sessions,
            sa.and_(sessions.c.worker_id == executions.c.worker_id, sessions.c.epoch == executions.c.epoch),
        )
        .where(
            sa.or_(
                sessions.c.worker_id.is_(None),
                sa.and_(sessions.c.lease_ended_at.is_not(None), tasks.c.delivery == "at_least_once"),
            )
        )
    )
    for running in _rows(transaction, unleased.limit(_BITE)):
        lose(transaction, running, "no session holds it")


def _put_back_all(transaction: Transaction, queued: sa.Select[Any], reason: str) -> None:
    for task in _rows(transaction, queued):
        put_back(transaction, task, reason)


def _rows(transaction: Transaction, query: sa.Select[Any]) -> list[Mapping[str, Any]]:
    return [row._asdict() for row in transaction.connection.execute(query)]
