"""What follows a success: a task's plan, whose first step becomes a task in the transaction of that success.

A plan is a list of steps in the row of the task that they follow. Since `succeeded` is final, a step is made exactly
once; since it is made where the success is stored, there is no moment at which it is owed and nobody knows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, StrictBool, field_validator

from broker.events import task_event
from broker.fields import A_NUMBER, PoolName
from broker.store.tables import tasks, workers
from broker.store.writer import Transaction
from protocols import ids
from protocols.codec import pack, unpack
from protocols.envelope import MAX_ENVELOPE_BYTES, MAX_INPUT_BYTES, pack_input
from protocols.errors import Conflict, InvalidInput, NotFound, TooLarge, WarrenError
from protocols.names import BuiltinAction, LaneKind, lane_name, pinned_lane_name
from protocols.states import Approval, Delivery, Priority, TaskState

MAX_STEPS = 20
_MAX_RESULT_BLOB = 4 * 1024 * 1024
_KEY_MARK = " "
"""Stands between a pipeline's Idempotency-Key and a step's number; no key that came in a header has it."""

_INSERT = tasks.insert()
_TASK = sa.select(tasks).where(tasks.c.id == sa.bindparam("task_id"))
_APPROVAL = sa.select(workers.c.approval).where(workers.c.id == sa.bindparam("worker_id"))

Word = Annotated[str, Field(min_length=1, max_length=128)]


class StepForm(BaseModel):
    """A Python function that shall run when the one before it has succeeded.

    Where pool, priority, attempts or timeout are not said, they are those of the task before it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    action: Word
    input: dict[str, Any] = Field(default_factory=dict)
    args: list[Any] = Field(default_factory=list)
    pool: PoolName | None = None
    worker: Word | None = None
    priority: Literal["low", "normal", "high", "critical"] | None = None
    delivery: Delivery = Delivery.AT_LEAST_ONCE
    max_attempts: Annotated[int, Field(ge=1, le=100), A_NUMBER] | None = None
    timeout_s: Annotated[float, Field(gt=0, le=30 * 86400, allow_inf_nan=False), A_NUMBER] | None = None
    delay_s: Annotated[float, Field(ge=0, le=366 * 86400, allow_inf_nan=False), A_NUMBER] = 0.0
    title: Annotated[str, Field(max_length=500)] | None = None
    pass_result: StrictBool = True
    """Whether the result before it is appended to its `args`."""

    @field_validator("action")
    @classmethod
    def _action_is_a_function(cls, action: str) -> str:
        if action in tuple(BuiltinAction):
            raise ValueError(f"a step is a Python function; {action} can only come first")
        return action


def pack_plan(steps: Sequence[StepForm], worker_id: Callable[[str], str]) -> bytes | None:
    """Return what `tasks.then_blob` holds of these steps, None if there are none.

    `worker_id` returns a worker's id of its id or name. Raises NotFound for a worker that does not exist, TooLarge or
    InvalidFrame for what no envelope could carry.
    """
    if not steps:
        return None
    return _pack([_entry(step, f"then.{number}", worker_id) for number, step in enumerate(steps)])


def read_plan(blob: bytes | None) -> list[dict[str, Any]]:
    """Return the steps in a task's `then_blob`, as fields of StepForm; what a step does not say is not there."""
    if blob is None:
        return []
    plan: list[dict[str, Any]] = unpack(blob, MAX_ENVELOPE_BYTES)
    return plan


def begin_next(transaction: Transaction, task: Mapping[str, Any]) -> tuple[Mapping[str, Any], WarrenError] | None:
    """Make the first step of a plan a task; `task` is the row that has just succeeded and has a plan.

    If the step can never run, its row and the reason are returned: the caller is to end it, so that somebody sees it.
    """
    step, *rest = read_plan(task["then_blob"])
    input_blob, problem = _input(step, task)
    problem = problem or _no_worker(transaction, step.get("worker"))
    row = _row(transaction, task, step) | {"input_blob": input_blob, "then_blob": _pack(rest) if rest else None}
    transaction.connection.execute(_INSERT, row)
    told = {"action": row["action"], "lane": row["lane"], "parent": task["id"]}
    transaction.events.append(task_event("task.created", row, told))
    if problem is None:
        transaction.wake(row["lane"], row["due_at"])
        return None
    return transaction.connection.execute(_TASK, {"task_id": row["id"]}).one()._asdict(), problem


def _entry(step: StepForm, where: str, worker_id: Callable[[str], str]) -> dict[str, Any]:
    entry = {name: value for name in sorted(step.model_fields_set) if (value := getattr(step, name)) is not None}
    if step.worker is not None:
        try:
            entry["worker"] = worker_id(step.worker)
        except NotFound as error:
            raise NotFound(error.message, field=f"{where}.worker") from error
    return entry


def _pack(plan: list[dict[str, Any]]) -> bytes:
    try:
        blob = pack(plan, MAX_INPUT_BYTES)
    except TooLarge as error:
        raise TooLarge(f"the steps together: {error.message}", field="then") from error
    # What could not be read when its turn comes is refused here, where someone can still be told.
    unpack(blob, MAX_ENVELOPE_BYTES)
    return blob


def _input(step: Mapping[str, Any], task: Mapping[str, Any]) -> tuple[bytes, WarrenError | None]:
    """Return the step's arguments with the result appended; without it, and why, if they cannot be carried."""
    args, kwargs = step.get("args", []), step.get("input", {})
    own = pack_input(args, kwargs)
    if not step.get("pass_result", True):
        return own, None
    try:
        return pack_input([*args, _result(task)], kwargs), None
    except InvalidInput as error:
        return own, type(error)(f"the result of {task['id']} cannot be appended to its arguments: {error.message}")


def _result(task: Mapping[str, Any]) -> Any:
    """Return what a function returned; all that is known of an LLM call or an SSH command."""
    result = None if task["result_blob"] is None else unpack(task["result_blob"], _MAX_RESULT_BLOB)
    if result is None or task["action"] in tuple(BuiltinAction):
        return result
    return result.get("value")


def _no_worker(transaction: Transaction, worker_id: str | None) -> WarrenError | None:
    """Return why the worker that a step is pinned to will never run it."""
    if worker_id is None:
        return None
    approval = transaction.connection.execute(_APPROVAL, {"worker_id": worker_id}).scalar()
    if approval is None:
        return NotFound(f"its worker {worker_id} is gone")
    if approval in (Approval.REJECTED, Approval.REVOKED):
        return Conflict(f"its worker {worker_id} is {approval}")
    return None


def _row(transaction: Transaction, task: Mapping[str, Any], step: Mapping[str, Any]) -> dict[str, Any]:
    pool, worker_id = step.get("pool", task["pool"]), step.get("worker")
    due_at = transaction.now + int(step.get("delay_s", 0.0) * 1000)
    return {
        "id": ids.new_id(ids.TASK),
        "parent_id": task["id"],
        "state": TaskState.SCHEDULED.value,
        "action": step["action"],
        "lane": pinned_lane_name(worker_id) if worker_id else lane_name(pool, LaneKind.PYTHON),
        "pool": pool,
        "pinned_worker_id": worker_id,
        "title": step.get("title"),
        "priority": Priority[step["priority"].upper()].value if "priority" in step else task["priority"],
        "delivery": step.get("delivery", Delivery.AT_LEAST_ONCE.value),
        "max_attempts": step.get("max_attempts", task["max_attempts"]),
        "timeout_s": step.get("timeout_s", task["timeout_s"]),
        "due_at": due_at,
        "eligible_at": due_at,
        "concurrency_limit": 1,
        "attempt": 0,
        "tries": 0,
        "losses": 0,
        "cancel_requested": False,
        "idempotency_key": _key(task["idempotency_key"]),
        "created_by": task["created_by"],
        "created_at": transaction.now,
    }


def _key(key: str | None) -> str | None:
    """Return the Idempotency-Key of the step after the task with this one: `key 1`, `key 2`, …"""
    if key is None:
        return None
    pipeline, _, number = key.partition(_KEY_MARK)
    return f"{pipeline}{_KEY_MARK}{int(number or 0) + 1}"
