"""Suspects: tasks that were running in several workers that were lost.

Each runs in a child process of its own, and no two of them on one worker at a time: were they lost together again,
the innocent one would be charged along with the one that kills.
"""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from broker.decide import SUSPECT_LOSSES
from broker.store.tables import executions
from broker.store.writer import Transaction
from broker.transitions import move
from protocols.states import TaskState

_AGAIN_MS = 500
_RUNNING = sa.select(sa.literal(1)).where(
    executions.c.worker_id == sa.bindparam("worker_id"),
    executions.c.isolated.is_(True),
    executions.c.ended_at.is_(None),
    executions.c.lease_ended_at.is_(None),
)


def is_suspect(task: Mapping[str, Any]) -> bool:
    """Return whether a task has to run on its own."""
    return bool(task["losses"] >= SUSPECT_LOSSES)


def runs_one(transaction: Transaction, worker_id: str) -> bool:
    """Return whether a worker runs a suspect now."""
    return transaction.connection.execute(_RUNNING, {"worker_id": worker_id}).first() is not None


def postpone(transaction: Transaction, task: Mapping[str, Any]) -> None:
    """Put a queued suspect back for a moment."""
    reason = "it runs on its own, and the worker that took it runs another one like it"
    due_at = transaction.now + _AGAIN_MS
    move(transaction, task, TaskState.SCHEDULED, "task.requeued", {"reason": reason}, due_at=due_at, wait_reason=reason)
