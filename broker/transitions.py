"""Carries a change of a task's state out: the row, its event, its dead letter, and who is woken by it."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from broker.decide import Decision
from broker.events import task_event
from broker.pipeline import begin_next
from broker.store.tables import dead_letters, in_state, paused_lanes, tasks
from broker.store.writer import Transaction
from protocols import ids
from protocols.errors import Conflict, WarrenError
from protocols.states import FINISHED_STATES, LEGAL_TRANSITIONS, CauseOfDeath, TaskState

_HOLDS_KEY = frozenset({TaskState.QUEUED, TaskState.RUNNING})
_LONGEST_PARKED = (
    sa.select(tasks.c.id, tasks.c.lane)
    .where(tasks.c.concurrency_key == sa.bindparam("key"), in_state(TaskState.SCHEDULED), tasks.c.due_at.is_(None))
    # One whose lane is paused could not use the place that another waits for.
    .order_by(tasks.c.lane.in_(sa.select(paused_lanes.c.lane)), tasks.c.priority.desc(), tasks.c.id)
    .limit(1)
)


def move(
    transaction: Transaction,
    task: Mapping[str, Any],
    to: TaskState,
    event: str,
    data: Mapping[str, Any] | None = None,
    **changes: Any,
) -> None:
    """Change the state of `task`, a row of `tasks` as this transaction read it, and set further columns.

    Raises Conflict if the row has changed since, WarrenError for a transition that no table allows.
    """
    was = TaskState(task["state"])
    if to not in LEGAL_TRANSITIONS[was]:
        raise WarrenError(f"no task goes from {was} to {to}")
    changes = {"wait_reason": None, **changes, "state": to.value}
    if to in FINISHED_STATES:
        changes["finished_at"] = transaction.now
    elif was in FINISHED_STATES:
        changes["finished_at"] = None
    changed = transaction.connection.execute(
        _update(tuple(changes)),
        {"moved_id": task["id"], "was": was.value, **{f"new_{column}": value for column, value in changes.items()}},
    )
    if changed.rowcount != 1:
        raise Conflict(f"task {task['id']} changed at the same moment")
    transaction.events.append(task_event(event, {**task, **changes}, data or {}))
    if was is TaskState.DEAD:
        _resolve_dead_letter(transaction, task["id"], event)
    if to is TaskState.DEAD:
        _add_dead_letter(transaction, {**task, **changes})
    if was in _HOLDS_KEY or to is TaskState.SCHEDULED:
        transaction.wake(task["lane"], changes["due_at"] if to is TaskState.SCHEDULED else None)
    if to not in _HOLDS_KEY and task["concurrency_key"] is not None:
        _wake_key(transaction, task["concurrency_key"])
    if to is TaskState.SUCCEEDED and task["then_blob"] is not None:
        _begin_next(transaction, {**task, **changes})


@lru_cache(maxsize=64)
def _update(columns: tuple[str, ...]) -> sa.Update:
    """Return the update of these columns; building it anew would cost more than running it."""
    return (
        tasks.update()
        .where(tasks.c.id == sa.bindparam("moved_id"), tasks.c.state == sa.bindparam("was"))
        .values({column: sa.bindparam(f"new_{column}") for column in columns})
    )


def carry_out(
    transaction: Transaction,
    task: Mapping[str, Any],
    decision: Decision,
    data: Mapping[str, Any] | None = None,
    **changes: Any,
) -> None:
    """Make a decision about `task` true; it must be one that changes the state."""
    if decision.state is None:
        raise WarrenError("this decision changes no state")
    told: dict[str, Any] = dict(data or {})
    if decision.cause is not None:
        told["cause"] = decision.cause.value
    if decision.due_at is not None:
        told["due_at"] = decision.due_at
    move(
        transaction,
        task,
        decision.state,
        decision.event,
        told,
        cause=decision.cause.value if decision.cause else None,
        due_at=decision.due_at if decision.state is TaskState.SCHEDULED else task["due_at"],
        wait_reason=decision.wait_reason,
        tries=decision.tries,
        losses=decision.losses,
        **changes,
    )


def die(
    transaction: Transaction,
    task: Mapping[str, Any],
    cause: CauseOfDeath,
    *,
    error_code: str,
    error_message: str,
    **changes: Any,
) -> None:
    """Make a task a dead letter for a reason that no execution told."""
    changes = {"error_class": None, "error_code": error_code, "error_message": error_message, **changes}
    move(transaction, task, TaskState.DEAD, "task.dead", {"cause": cause.value}, cause=cause.value, **changes)


def _begin_next(transaction: Transaction, task: Mapping[str, Any]) -> None:
    stillborn = begin_next(transaction, task)
    if stillborn is not None:
        step, problem = stillborn
        cause = CauseOfDeath.NOT_RETRYABLE
        die(transaction, step, cause, error_code=problem.code, error_message=problem.message)


def put_back(transaction: Transaction, task: Mapping[str, Any], reason: str) -> None:
    """Take a queued task out of its lane's window; it keeps its place in line."""
    move(transaction, task, TaskState.SCHEDULED, "task.requeued", {"reason": reason}, due_at=task["due_at"])


def redrive(transaction: Transaction, task: Mapping[str, Any], actor: str) -> None:
    """Run a dead task again, with all of its tries; its dead letter is dealt with. Raises Conflict for another."""
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


def _add_dead_letter(transaction: Transaction, task: Mapping[str, Any]) -> None:
    transaction.connection.execute(
        dead_letters.insert().values(
            id=ids.new_id(ids.DEAD_LETTER),
            task_id=task["id"],
            action=task["action"],
            lane=task["lane"],
            cause=task["cause"],
            error_class=task["error_class"],
            error_code=task["error_code"],
            error_message=task["error_message"],
            attempts=task["attempt"],
            tries=task["tries"],
            dead_at=transaction.now,
        )
    )


def _resolve_dead_letter(transaction: Transaction, task_id: str, resolution: str) -> None:
    transaction.connection.execute(
        dead_letters.update()
        .where(dead_letters.c.task_id == task_id, dead_letters.c.resolved_at.is_(None))
        .values(resolved_at=transaction.now, resolution=resolution.removeprefix("task."))
    )


def _wake_key(transaction: Transaction, key: str) -> None:
    """A place of a concurrency key is free: let the longest waiting task compete for its lane's window."""
    first = transaction.connection.execute(_LONGEST_PARKED, {"key": key}).first()
    if first is not None:
        transaction.connection.execute(
            tasks.update().where(tasks.c.id == first.id).values(due_at=transaction.now, wait_reason=None)
        )
        transaction.wake(first.lane)
