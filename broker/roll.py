"""The roll: who is here. Opens sessions in the database, and keeps workers' presence and heartbeats."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from broker.events import worker_event
from broker.leases import end_lease, lose, running_rows
from broker.store.tables import executions, providers, sessions, workers
from broker.store.writer import Transaction, Writer
from protocols.errors import WorkerRefused
from protocols.frames import Heartbeat, Hello
from protocols.names import LaneKind, lane_name, pinned_lane_name
from protocols.states import Approval, Presence

_HERE = frozenset({Presence.ONLINE.value, Presence.SUSPECT.value, Presence.DRAINING.value})


@dataclass(frozen=True, slots=True)
class Opened:
    """A session as it was opened or resumed."""

    epoch: int
    resumed: bool
    running: frozenset[str]
    """The worker's executions whose leases live."""
    ended: tuple[str, ...]
    """Of the executions that the worker still runs: those whose leases have ended."""
    cancelled: tuple[str, ...]
    """Of those: the ones that someone asked to cancel meanwhile."""
    lanes: tuple[str, ...]


class Roll:
    """Writes the coming and going of workers."""

    def __init__(self, writer: Writer, control_plane: str) -> None:
        self._writer = writer
        self._control_plane = control_plane

    def open(self, hello: Hello) -> Future[Opened]:
        """Open a session, or resume the one that the worker names; fails with WorkerRefused."""
        return self._writer.write(lambda transaction: self._open(transaction, hello))

    def suspect(self, worker_id: str, epoch: int) -> Future[None]:
        """The session's connection is gone; its lease goes on for now."""
        return self._writer.write(lambda transaction: _suspect(transaction, worker_id, epoch))

    def leave(self, worker_id: str, epoch: int) -> Future[None]:
        """The worker said goodbye: end its lease and mark it as offline."""
        return self._writer.write(lambda transaction: _leave(transaction, worker_id, epoch))

    def heartbeat(self, worker_id: str, beat: Heartbeat) -> Future[None]:
        """Store a worker's newest heartbeat."""
        return self._writer.gather(_heartbeats, (worker_id, beat))

    def lanes(self, connection: Connection) -> dict[str, tuple[str, ...]]:
        """Return the lanes that each approved worker shall consume."""
        names = provider_names(connection)
        found = connection.execute(
            sa.select(workers.c.id, workers.c.pools, workers.c.drained_at).where(
                workers.c.approval == Approval.APPROVED.value
            )
        )
        return {row.id: _lanes_now(row, names) for row in found}

    def _open(self, transaction: Transaction, hello: Hello) -> Opened:
        worker = transaction.connection.execute(sa.select(workers).where(workers.c.id == hello.worker_id)).one()
        if worker.approval != Approval.APPROVED.value:
            raise WorkerRefused(f"this worker is {worker.approval}")
        resumed = self._resume(transaction, hello)
        if resumed:
            epoch = hello.epoch
        else:
            epoch = worker.epoch + 1
            self._begin(transaction, hello, epoch)
        transaction.connection.execute(
            workers.update()
            .where(workers.c.id == worker.id)
            .values(
                epoch=epoch,
                presence=(Presence.ONLINE if worker.drained_at is None else Presence.DRAINING).value,
                last_seen_at=transaction.now,
                version=hello.version,
                actions=list(hello.actions),
                slots=dict(hello.slots),
            )
        )
        if not resumed or worker.presence not in _HERE:
            transaction.events.append(worker_event("worker.online", worker.id, {"epoch": epoch}))
        alive, cancelled = _alive(transaction, hello.worker_id)
        return Opened(
            epoch=epoch,
            resumed=resumed,
            running=alive,
            ended=tuple(sorted(_known(transaction, hello.running) - alive)),
            cancelled=cancelled,
            lanes=_lanes_now(worker, provider_names(transaction.connection)),
        )

    def _resume(self, transaction: Transaction, hello: Hello) -> bool:
        if hello.epoch == 0:
            return False
        resumed = transaction.connection.execute(
            sessions.update()
            .where(
                sessions.c.worker_id == hello.worker_id,
                sessions.c.epoch == hello.epoch,
                sessions.c.boot_id == hello.boot_id,
                sessions.c.lease_ended_at.is_(None),
            )
            .values(closed_at=None, control_plane=self._control_plane)
        )
        return resumed.rowcount == 1

    def _begin(self, transaction: Transaction, hello: Hello, epoch: int) -> None:
        """Open a new session; what the worker still has moves into it, what it does not know of is lost."""
        transaction.connection.execute(
            sessions.insert().values(
                worker_id=hello.worker_id,
                epoch=epoch,
                boot_id=hello.boot_id,
                control_plane=self._control_plane,
                opened_at=transaction.now,
            )
        )
        known = set(hello.running)
        mine = running_rows().where(executions.c.worker_id == hello.worker_id)
        for row in transaction.connection.execute(mine).all():
            if row.execution_id in known:
                transaction.connection.execute(
                    executions.update().where(executions.c.id == row.execution_id).values(epoch=epoch)
                )
            else:
                lose(transaction, row._asdict(), "the worker started anew without it")
        _end_older_leases(transaction, hello.worker_id, epoch)


def worker_lanes(worker_id: str, pools: Sequence[str], provider_names: Sequence[str]) -> tuple[str, ...]:
    """Return the lanes that are a worker's own, whether or not it is drained."""
    shared = [
        lane
        for pool in sorted(pools)
        for lane in (
            lane_name(pool, LaneKind.SSH),
            lane_name(pool, LaneKind.PYTHON),
            *(lane_name(pool, LaneKind.LLM, name) for name in provider_names),
        )
    ]
    return (pinned_lane_name(worker_id), *shared)


def live_sessions(connection: Connection) -> list[tuple[str, int]]:
    """Return (worker id, epoch) of every session that holds a lease."""
    found = connection.execute(
        sa.select(sessions.c.worker_id, sessions.c.epoch).where(sessions.c.lease_ended_at.is_(None))
    )
    return [(row.worker_id, row.epoch) for row in found]


def provider_names(connection: Connection) -> list[str]:
    """Return the names of all providers, sorted."""
    return list(connection.execute(sa.select(providers.c.name).order_by(providers.c.name)).scalars())


def _lanes_now(worker: sa.Row[*tuple[Any, ...]], names: Sequence[str]) -> tuple[str, ...]:
    return () if worker.drained_at is not None else worker_lanes(worker.id, worker.pools, names)


def _known(transaction: Transaction, execution_ids: Sequence[str]) -> frozenset[str]:
    """Return those that have passed the gate; a claim that never arrived is simply made again."""
    query = sa.select(executions.c.id).where(executions.c.id.in_(execution_ids))
    return frozenset(transaction.connection.execute(query).scalars())


def _alive(transaction: Transaction, worker_id: str) -> tuple[frozenset[str], tuple[str, ...]]:
    mine = running_rows().where(executions.c.worker_id == worker_id, executions.c.lease_ended_at.is_(None))
    rows = transaction.connection.execute(mine).all()
    alive = frozenset(row.execution_id for row in rows)
    return alive, tuple(row.execution_id for row in rows if row.cancel_requested)


def _end_older_leases(transaction: Transaction, worker_id: str, epoch: int) -> None:
    older = transaction.connection.execute(
        sa.select(sessions.c.epoch).where(
            sessions.c.worker_id == worker_id, sessions.c.epoch < epoch, sessions.c.lease_ended_at.is_(None)
        )
    ).scalars()
    for old in older.all():
        end_lease(transaction, worker_id, old, "the worker opened a new session")


def _suspect(transaction: Transaction, worker_id: str, epoch: int) -> None:
    transaction.connection.execute(
        sessions.update()
        .where(sessions.c.worker_id == worker_id, sessions.c.epoch == epoch)
        .values(closed_at=transaction.now)
    )
    transaction.connection.execute(
        workers.update()
        .where(workers.c.id == worker_id, workers.c.epoch == epoch)
        .values(presence=Presence.SUSPECT.value)
    )


def _leave(transaction: Transaction, worker_id: str, epoch: int) -> None:
    end_lease(transaction, worker_id, epoch, "the worker left", event="worker.offline")
    transaction.connection.execute(
        workers.update()
        .where(workers.c.id == worker_id, workers.c.epoch == epoch)
        .values(presence=Presence.OFFLINE.value)
    )


def _heartbeats(transaction: Transaction, items: Sequence[tuple[str, Heartbeat]]) -> Sequence[None]:
    for worker_id, beat in items:
        presence = Presence.DRAINING if beat.draining else Presence.ONLINE
        transaction.connection.execute(
            workers.update()
            .where(workers.c.id == worker_id)
            .values(
                heartbeat={**_plain(beat), "at": transaction.now},
                presence=sa.case((workers.c.drained_at.is_(None), presence.value), else_=Presence.DRAINING.value),
                last_seen_at=transaction.now,
            )
        )
    return [None] * len(items)


def _plain(beat: Heartbeat) -> dict[str, object]:
    plain = asdict(beat)
    plain.pop("k")
    return plain
