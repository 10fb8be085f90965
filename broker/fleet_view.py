"""What people see of the fleet: how each worker is, and all of it at a glance."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Select
from sqlalchemy.engine import Connection

from broker.store.tables import agents, executions, tasks, workers
from protocols.states import Approval, Presence

REPORTING_MS = 60_000
"""A worker without a session counts as online for so long after its last report."""


class WorkerStatus(StrEnum):
    """A worker's presence, or its approval while that is not `approved`."""

    PENDING = Approval.PENDING.value
    REJECTED = Approval.REJECTED.value
    REVOKED = Approval.REVOKED.value
    ONLINE = Presence.ONLINE.value
    SUSPECT = Presence.SUSPECT.value
    LOST = Presence.LOST.value
    DRAINING = Presence.DRAINING.value
    OFFLINE = Presence.OFFLINE.value


_LIVE = frozenset({Presence.ONLINE.value, Presence.SUSPECT.value, Presence.DRAINING.value})


@dataclass(slots=True)
class SlotCount:
    """Slots of one kind, over all workers that are here."""

    busy: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The whole fleet."""

    total: int
    by_status: dict[str, int]
    by_presence: dict[str, int]
    by_approval: dict[str, int]
    running: int
    """Executions."""
    slots: dict[str, SlotCount]
    """By lane kind."""
    pools: dict[str, int]
    """How many approved workers serve each pool."""
    cpu_percent: float | None
    """The mean of the workers that are here; None without any."""
    memory_percent: float | None


def presence_of(now: int) -> sa.ColumnElement[str]:
    """Return a worker's presence; without a session it is what its last report is worth at `now` (milliseconds)."""
    reports = sa.and_(workers.c.identity_key.is_(None), workers.c.last_seen_at.is_not(None))
    return sa.case(
        (~reports, workers.c.presence),
        (workers.c.last_seen_at < now - REPORTING_MS, Presence.LOST.value),
        (workers.c.drained_at.is_not(None), Presence.DRAINING.value),
        else_=Presence.ONLINE.value,
    )


def status_of(now: int) -> sa.ColumnElement[str]:
    """Return a worker's status, a WorkerStatus."""
    return sa.case((workers.c.approval == Approval.APPROVED.value, presence_of(now)), else_=workers.c.approval)


def serves(pool: str) -> sa.ColumnElement[bool]:
    """Return the condition that a pool is one of a worker's."""
    served = sa.func.json_each(workers.c.pools).table_valued("value")
    return sa.exists().where(served.c.value == pool)


def unfinished_of(worker_id: str) -> sa.CompoundSelect[str]:
    """Return the query of the ids of unfinished tasks that are pinned to a worker, or are its agents', or both."""
    its_agents = sa.select(agents.c.id).where(agents.c.worker_id == worker_id)
    unfinished = sa.select(tasks.c.id).where(tasks.c.finished_at.is_(None))
    return sa.union_all(
        unfinished.where(tasks.c.pinned_worker_id == worker_id), unfinished.where(tasks.c.agent_id.in_(its_agents))
    )


def worker_rows(now: int) -> Select[Any]:
    """Return the query of workers with their `presence` and `status` at `now`, and how many executions run."""
    running = (
        sa.select(sa.func.count())
        .where(
            executions.c.worker_id == workers.c.id,
            executions.c.ended_at.is_(None),
            executions.c.lease_ended_at.is_(None),
        )
        .scalar_subquery()
    )
    return sa.select(
        *(column for column in workers.c if column is not workers.c.presence),
        presence_of(now).label("presence"),
        status_of(now).label("status"),
        running.label("running"),
    )


def overview(connection: Connection, now: int) -> Overview:
    """Count the fleet."""
    rows = connection.execute(worker_rows(now)).all()
    approved = [row for row in rows if row.approval == Approval.APPROVED.value]
    beats = [row.heartbeat for row in approved if row.presence in _LIVE and row.heartbeat]
    return Overview(
        total=len(rows),
        by_status=_counts(WorkerStatus, (row.status for row in rows)),
        by_presence=_counts(Presence, (row.presence for row in rows)),
        by_approval=_counts(Approval, (row.approval for row in rows)),
        running=sum(row.running for row in rows),
        slots=_slots(beats),
        pools=dict(sorted(Counter(pool for row in approved for pool in row.pools).items())),
        cpu_percent=_mean(beat["cpu_percent"] for beat in beats),
        memory_percent=_mean(beat["memory_percent"] for beat in beats),
    )


def _counts(names: Iterable[str], found: Iterable[str]) -> dict[str, int]:
    """Return how often each of `names` was found, also those that were not."""
    return {**dict.fromkeys(map(str, names), 0), **Counter(found)}


def _slots(beats: list[dict[str, Any]]) -> dict[str, SlotCount]:
    counted: dict[str, SlotCount] = defaultdict(SlotCount)
    for beat in beats:
        for kind, slots in beat.get("slots", {}).items():
            counted[kind].busy += slots["busy"]
            counted[kind].total += slots["total"]
    return dict(counted)


def _mean(values: Iterable[float]) -> float | None:
    given = list(values)
    return round(fmean(given), 1) if given else None
