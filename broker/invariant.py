"""The ownership invariant: every unfinished task has an owner that can be named. This checks the whole database.

Run it on a quiet control plane; while work goes on, what it says is a snapshot.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Select
from sqlalchemy.engine import Connection

from broker.store.tables import attempts, batches, dead_letters, executions, in_state, paused_lanes, sessions, tasks
from protocols.states import TaskState

_RUNNING = TaskState.RUNNING.value
_QUEUED = TaskState.QUEUED.value


@dataclass(frozen=True, slots=True)
class Violation:
    """A task that nobody owns, or that two own."""

    task_id: str
    problem: str


def violations(connection: Connection, *, now: int, confirm_ms: int, at_most_once_ms: int) -> list[Violation]:
    """Return every violation; `now` and the two graces in milliseconds."""
    checks = (
        ("it waits for nothing: no due time and no full concurrency key", _waits_for_nothing()),
        ("it is queued without a published attempt", _queued_without_attempt()),
        ("its batch is unconfirmed for too long", _unconfirmed(now - confirm_ms)),
        ("it is queued although its queue has been paused", _queued_in_paused(now - confirm_ms)),
        ("it runs without a current, open execution", _runs_without_execution()),
        ("it runs under a lease that has ended", _runs_without_lease(now - at_most_once_ms)),
        ("an execution is open and leased, but its task does not run it", _stray_execution()),
        ("it is dead without a dead letter", _dead_without_letter()),
        ("it has an open dead letter and is not dead", _letter_without_death()),
        ("it has finished without a time of its end", _unfinished_end()),
    )
    return [Violation(task_id, problem) for problem, query in checks for task_id in _ids(connection, query)]


def _ids(connection: Connection, query: Select[Any]) -> list[str]:
    return [row[0] for row in connection.execute(query)]


def _waits_for_nothing() -> Select[Any]:
    other = tasks.alias()
    holders = (
        sa.select(sa.func.count())
        .where(other.c.concurrency_key == tasks.c.concurrency_key, other.c.state.in_((_QUEUED, _RUNNING)))
        .scalar_subquery()
    )
    return sa.select(tasks.c.id).where(
        in_state(TaskState.SCHEDULED),
        tasks.c.due_at.is_(None),
        sa.or_(tasks.c.concurrency_key.is_(None), holders < tasks.c.concurrency_limit),
    )


def _queued_without_attempt() -> Select[Any]:
    published = sa.exists().where(
        attempts.c.task_id == tasks.c.id,
        attempts.c.attempt == tasks.c.attempt,
        attempts.c.batch_id == tasks.c.batch_id,
    )
    return sa.select(tasks.c.id).where(in_state(TaskState.QUEUED), ~published)


def _unconfirmed(before: int) -> Select[Any]:
    return (
        sa.select(tasks.c.id)
        .outerjoin(batches, batches.c.id == tasks.c.batch_id)
        .where(
            in_state(TaskState.QUEUED),
            sa.or_(
                batches.c.id.is_(None),
                sa.and_(batches.c.confirmed_at.is_(None), batches.c.published_at < before),
            ),
        )
    )


def _queued_in_paused(before: int) -> Select[Any]:
    """A pause puts its queue's window back; a task that is due there waits for nothing but its end."""
    return (
        sa.select(tasks.c.id)
        .join(paused_lanes, paused_lanes.c.lane == tasks.c.lane)
        .where(in_state(TaskState.QUEUED), paused_lanes.c.paused_at < before)
    )


def _runs_without_execution() -> Select[Any]:
    current = sa.exists().where(executions.c.id == tasks.c.execution_id, executions.c.ended_at.is_(None))
    return sa.select(tasks.c.id).where(tasks.c.state == _RUNNING, ~current)


def _runs_without_lease(before: int) -> Select[Any]:
    return (
        sa.select(tasks.c.id)
        .join(executions, executions.c.id == tasks.c.execution_id)
        .outerjoin(
            sessions,
            sa.and_(sessions.c.worker_id == executions.c.worker_id, sessions.c.epoch == executions.c.epoch),
        )
        .where(
            tasks.c.state == _RUNNING,
            sa.or_(sessions.c.worker_id.is_(None), sessions.c.lease_ended_at < before),
        )
    )


def _stray_execution() -> Select[Any]:
    return (
        sa.select(executions.c.task_id)
        .join(tasks, tasks.c.id == executions.c.task_id)
        .where(
            executions.c.ended_at.is_(None),
            executions.c.lease_ended_at.is_(None),
            sa.or_(tasks.c.state != _RUNNING, tasks.c.execution_id != executions.c.id),
        )
    )


def _dead_without_letter() -> Select[Any]:
    return sa.select(tasks.c.id).where(
        tasks.c.state == TaskState.DEAD.value,
        ~sa.exists().where(
            dead_letters.c.task_id == tasks.c.id,
            sa.or_(dead_letters.c.resolved_at.is_(None), dead_letters.c.resolution == "discarded"),
        ),
    )


def _letter_without_death() -> Select[Any]:
    return (
        sa.select(dead_letters.c.task_id)
        .join(tasks, tasks.c.id == dead_letters.c.task_id)
        .where(dead_letters.c.resolved_at.is_(None), tasks.c.state != TaskState.DEAD.value)
    )


def _unfinished_end() -> Select[Any]:
    finished = (TaskState.SUCCEEDED.value, TaskState.DEAD.value, TaskState.CANCELLED.value)
    return sa.select(tasks.c.id).where(
        sa.or_(
            sa.and_(tasks.c.state.in_(finished), tasks.c.finished_at.is_(None)),
            sa.and_(tasks.c.state.not_in(finished), tasks.c.finished_at.is_not(None)),
        )
    )
