"""Leases: a worker's right to what it runs, and what becomes of that when the worker goes silent.

A lease belongs to a session (worker, epoch). It ends by a compare-and-set on the session's row, so that it ends
once, whoever finds out first. Ending it makes at_least_once work claimable at once; at_most_once work waits
longer for an outcome before it is given up, since it is never run again.
"""

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import sqlalchemy as sa

from broker.decide import decide_lost
from broker.events import worker_event
from broker.intake import facts
from broker.store.tables import executions, sessions, tasks, workers
from broker.store.writer import Transaction, Writer
from broker.transitions import carry_out
from protocols.states import Delivery, Presence, TaskState

LOST_CODE = "worker_lost"


class Leases:
    """Ends leases."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def end(self, worker_id: str, epoch: int, reason: str) -> Future[bool]:
        """End a session's lease; False if it had ended before."""
        return self._writer.write(lambda transaction: end_lease(transaction, worker_id, epoch, reason))

    def give_up(self, before: int) -> Future[int]:
        """Give up at_most_once work of sessions whose leases ended before this time; returns how much."""
        return self._writer.write(lambda transaction: _give_up(transaction, before))


def end_lease(transaction: Transaction, worker_id: str, epoch: int, reason: str, *, event: str = "worker.lost") -> bool:
    """End a session's lease in this transaction, telling of it as `event`; False if it had ended before."""
    ended = transaction.connection.execute(
        sessions.update()
        .where(sessions.c.worker_id == worker_id, sessions.c.epoch == epoch, sessions.c.lease_ended_at.is_(None))
        .values(
            lease_ended_at=transaction.now,
            closed_at=sa.func.coalesce(sessions.c.closed_at, transaction.now),
        )
    )
    if ended.rowcount != 1:
        return False
    transaction.connection.execute(
        workers.update().where(workers.c.id == worker_id, workers.c.epoch == epoch).values(presence=Presence.LOST.value)
    )
    transaction.events.append(worker_event(event, worker_id, {"epoch": epoch, "reason": reason}))
    for running in _running(transaction, worker_id, epoch):
        if running["delivery"] == Delivery.AT_LEAST_ONCE.value:
            lose(transaction, running, reason)
    return True


def lose(transaction: Transaction, running: Mapping[str, Any], reason: str) -> None:
    """End the lease of one running execution (a row of `running_rows`) and decide what follows."""
    transaction.connection.execute(
        executions.update().where(executions.c.id == running["execution_id"]).values(lease_ended_at=transaction.now)
    )
    decision = decide_lost(facts(running, running), now=transaction.now)
    carry_out(
        transaction,
        running,
        decision,
        {"reason": reason},
        error_class="lost",
        error_code=LOST_CODE,
        error_message=f"the worker was lost while it ran this: {reason}",
    )


def running_rows() -> sa.Select[Any]:
    """Return the query of running tasks, each with its execution's own columns."""
    return (
        sa.select(
            tasks,
            executions.c.isolated,
            executions.c.lease_ended_at,
            executions.c.epoch.label("execution_epoch"),
            executions.c.worker_id.label("execution_worker_id"),
        )
        .join(executions, executions.c.id == tasks.c.execution_id)
        .where(tasks.c.state == TaskState.RUNNING.value, executions.c.ended_at.is_(None))
    )


def _running(transaction: Transaction, worker_id: str, epoch: int) -> list[Mapping[str, Any]]:
    query = running_rows().where(executions.c.worker_id == worker_id, executions.c.epoch == epoch)
    return [row._asdict() for row in transaction.connection.execute(query)]


def _give_up(transaction: Transaction, before: int) -> int:
    query = (
        running_rows()
        .join(
            sessions,
            sa.and_(
                sessions.c.worker_id == executions.c.worker_id,
                sessions.c.epoch == executions.c.epoch,
            ),
        )
        .where(sessions.c.lease_ended_at <= before)
        .limit(100)
    )
    given_up = [row._asdict() for row in transaction.connection.execute(query)]
    for running in given_up:
        lose(transaction, running, "no outcome came after its lease had ended")
    return len(given_up)
