"""What people do with tasks: cancel them, redrive and discard dead ones."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import sqlalchemy as sa

from broker.audit import record
from broker.events import task_event
from broker.store.tables import dead_letters, tasks
from broker.store.writer import Transaction, Writer
from broker.transitions import move
from protocols.errors import Conflict, NotFound
from protocols.states import FINISHED_STATES, TaskState


class Tasks:
    """Changes single tasks on someone's request."""

    def __init__(self, writer: Writer, on_cancel: Callable[[str, str, str], None]) -> None:
        self._writer = writer
        self._on_cancel = on_cancel
        """Tells the worker: called with (worker id, execution id, reason) after the commit."""

    def cancel(self, task_id: str, reason: str, actor: str) -> Future[None]:
        """End a task. Unclaimed work is cancelled at once; running work is asked to stop and its outcome decides.

        Fails with NotFound, or Conflict if the task has finished.
        """
        return self._writer.write(lambda transaction: self._cancel(transaction, task_id, reason, actor))

    def redrive(self, dead_letter_id: str, actor: str) -> Future[str]:
        """Run a dead task again, with all of its tries; returns the task's id.

        Fails with NotFound, or Conflict if this dead letter was dealt with.
        """
        return self._writer.write(lambda transaction: _redrive(transaction, dead_letter_id, actor))

    def discard(self, dead_letter_id: str, actor: str) -> Future[None]:
        """Take a dead letter off the list; its task stays dead. Fails with NotFound or Conflict."""
        return self._writer.write(lambda transaction: _discard(transaction, dead_letter_id, actor))

    def _cancel(self, transaction: Transaction, task_id: str, reason: str, actor: str) -> None:
        task = _task(transaction, task_id)
        if TaskState(task["state"]) in FINISHED_STATES:
            raise Conflict(f"the task has finished: it is {task['state']}")
        told = {"reason": reason, "by": actor}
        if task["state"] != TaskState.RUNNING.value:
            move(transaction, task, TaskState.CANCELLED, "task.cancelled", told, cancel_requested=True)
            return
        transaction.connection.execute(tasks.update().where(tasks.c.id == task_id).values(cancel_requested=True))
        transaction.events.append(task_event("task.cancel_requested", task, told))
        worker_id, execution_id = task["worker_id"], task["execution_id"]
        transaction.after_commit(lambda: self._on_cancel(worker_id, execution_id, reason))


def _redrive(transaction: Transaction, dead_letter_id: str, actor: str) -> str:
    letter = _open_letter(transaction, dead_letter_id)
    task = _task(transaction, letter["task_id"])
    if task["state"] != TaskState.DEAD.value:
        raise Conflict(f"the task is not dead: it is {task['state']}")
    move(
        transaction,
        task,
        TaskState.SCHEDULED,
        "task.redriven",
        {"by": actor},
        due_at=transaction.now,
        eligible_at=transaction.now,
        tries=0,
        losses=0,
        cancel_requested=False,
        cause=None,
        # A deadline that has passed would only end it again.
        deadline_at=None if (task["deadline_at"] or 0) <= transaction.now else task["deadline_at"],
    )
    record(transaction, actor, "dead_letter.retry", dead_letter_id, {"task_id": task["id"]})
    return str(task["id"])


def _discard(transaction: Transaction, dead_letter_id: str, actor: str) -> None:
    _open_letter(transaction, dead_letter_id)
    transaction.connection.execute(
        dead_letters.update()
        .where(dead_letters.c.id == dead_letter_id)
        .values(resolved_at=transaction.now, resolution="discarded")
    )
    record(transaction, actor, "dead_letter.delete", dead_letter_id, {})


def _task(transaction: Transaction, task_id: str) -> Mapping[str, Any]:
    found = transaction.connection.execute(sa.select(tasks).where(tasks.c.id == task_id)).first()
    if found is None:
        raise NotFound(f"there is no task {task_id[:80]!r}")
    return found._asdict()


def _open_letter(transaction: Transaction, dead_letter_id: str) -> Mapping[str, Any]:
    found = transaction.connection.execute(sa.select(dead_letters).where(dead_letters.c.id == dead_letter_id)).first()
    if found is None:
        raise NotFound(f"there is no dead letter {dead_letter_id[:80]!r}")
    if found.resolved_at is not None:
        raise Conflict(f"this dead letter was dealt with before: {found.resolution}")
    return found._asdict()
