"""What people do with tasks: change, cancel and retry them. The dead ones' letters are in `dead_letters`."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from broker.audit import record
from broker.counting import STATISTICS_LIMIT, Grouping, Groups
from broker.events import task_event
from broker.store.tables import tasks
from broker.store.writer import Transaction, Writer
from broker.submit import deadline_at
from broker.transitions import move, redrive
from protocols.codec import unpack
from protocols.envelope import MAX_ENVELOPE_BYTES, pack_input
from protocols.errors import Conflict, InvalidInput, NotFound
from protocols.names import BuiltinAction
from protocols.states import FINISHED_STATES, Priority, TaskState

_WORDS = frozenset({"title", "description"})
"""Columns that change nothing about what runs, nor when."""
_FIELDS = {"deadline_at": "deadline"}
_BEGUN = FINISHED_STATES | {TaskState.RUNNING}
_TOTAL = sa.select(sa.func.count()).select_from(tasks)
_BY_STATE = Grouping(tasks.c.state, limit=STATISTICS_LIMIT)
_BY_PRIORITY = Grouping(tasks.c.priority, limit=STATISTICS_LIMIT)


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """How many tasks there are, which is always exact, and how many in each state and of each priority."""

    total: int
    by_state: Groups
    by_priority: Groups


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

    def change(self, task_id: str, fields: Mapping[str, Any], actor: str) -> Future[None]:
        """Change what `fields` names: title and description at any time, the rest until a worker has begun.

        A task that is in its lane's window leaves it, and is put in line anew. Fails with NotFound, Conflict for a
        task that is too far, InvalidInput for what it cannot have.
        """
        return self._writer.write(lambda transaction: _change(transaction, task_id, fields, actor))

    def retry(self, task_id: str, actor: str) -> Future[None]:
        """Run a dead task again, with all of its tries. Fails with NotFound, or Conflict unless it is dead."""
        return self._writer.write(lambda transaction: _retry(transaction, task_id, actor))

    def _cancel(self, transaction: Transaction, task_id: str, reason: str, actor: str) -> None:
        task = find_task(transaction, task_id)
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


def _change(transaction: Transaction, task_id: str, fields: Mapping[str, Any], actor: str) -> None:
    task = find_task(transaction, task_id)
    wanted = _columns(task, fields, transaction.now)
    columns = {column: value for column, value in wanted.items() if value != task[column]}
    if not columns:
        return
    told = {"by": actor, "fields": sorted(_FIELDS.get(column, column) for column in columns.keys() - {"input_blob"})}
    if columns.keys() <= _WORDS:
        _set(transaction, task, columns, told)
        return
    if TaskState(task["state"]) in _BEGUN:
        raise Conflict(
            f"the task is {task['state']}: only its title and description can be changed",
            hint="submit another task",
        )
    if task["state"] == TaskState.QUEUED.value:
        move(transaction, task, TaskState.SCHEDULED, "task.updated", told, due_at=task["due_at"], **columns)
    else:
        _set(transaction, task, columns, told)
        transaction.wake(task["lane"], task["due_at"])


def _set(
    transaction: Transaction, task: Mapping[str, Any], columns: Mapping[str, Any], told: Mapping[str, Any]
) -> None:
    transaction.connection.execute(tasks.update().where(tasks.c.id == task["id"]).values(columns))
    transaction.events.append(task_event("task.updated", task, told))


def _columns(task: Mapping[str, Any], fields: Mapping[str, Any], now: int) -> dict[str, Any]:
    """Return the columns for `fields`; raises InvalidInput or Conflict."""
    columns = dict(fields)
    if "priority" in columns:
        columns["priority"] = Priority[columns["priority"].upper()].value
    if "deadline" in columns:
        deadline = columns.pop("deadline")
        columns["deadline_at"] = None if deadline is None else deadline_at(deadline, now, known=task["deadline_at"])
    instructions = fields.get("instructions", task["instructions"])
    if instructions != task["instructions"] and task["action"] == BuiltinAction.LLM_CHAT:
        columns["input_blob"] = _with_prompt(task, instructions)
    return columns


def _with_prompt(task: Mapping[str, Any], instructions: str | None) -> bytes:
    args, task_input = unpack(task["input_blob"], MAX_ENVELOPE_BYTES)
    if not instructions:
        raise InvalidInput("an llm.chat cannot be without instructions", field="instructions")
    if "messages" in task_input:
        raise Conflict(
            "this task's `input` has its own `messages`, which instructions cannot replace", field="instructions"
        )
    return pack_input(args, {**task_input, "prompt": instructions})


def _retry(transaction: Transaction, task_id: str, actor: str) -> None:
    redrive(transaction, find_task(transaction, task_id), actor)
    record(transaction, actor, "task.retry", task_id, {})


def count_tasks(connection: Connection) -> TaskCounts:
    """Count all tasks on one snapshot."""
    total = connection.execute(_TOTAL).scalar_one()
    return TaskCounts(total, _BY_STATE.read(connection, total), _BY_PRIORITY.read(connection, total))


def find_task(transaction: Transaction, task_id: str) -> Mapping[str, Any]:
    """Return the row of the task with this id; raises NotFound."""
    found = transaction.connection.execute(sa.select(tasks).where(tasks.c.id == task_id)).first()
    if found is None:
        raise NotFound(f"there is no task {task_id[:80]!r}")
    return found._asdict()
