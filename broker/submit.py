"""Submission: a form becomes a task, in the same transaction that may queue it."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from sqlalchemy import Table

from broker.events import task_event
from broker.pipeline import MAX_STEPS, StepForm, pack_plan
from broker.store.tables import connections, providers, tasks, workers
from broker.store.writer import Transaction, Writer
from protocols import ids
from protocols.envelope import pack_input
from protocols.errors import IdempotencyMismatch, InvalidInput, NotFound
from protocols.names import DEFAULT_POOL, BuiltinAction, LaneKind, check_name, lane_name, pinned_lane_name
from protocols.states import Delivery, Priority, TaskState

_DEFAULT_TIMEOUT_S = 600.0
_DEFAULT_ATTEMPTS = 3

Word = Annotated[str, Field(min_length=1, max_length=128)]


class TaskForm(BaseModel):
    """What a client asks for."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    action: Word
    input: dict[str, Any] = Field(default_factory=dict)
    args: list[Any] = Field(default_factory=list)
    provider: Word | None = None
    connection: Word | None = None
    pool: Word = DEFAULT_POOL
    worker: Word | None = None
    priority: Literal["low", "normal", "high", "critical"] = "normal"
    delivery: Delivery | None = None
    max_attempts: int = Field(default=_DEFAULT_ATTEMPTS, ge=1, le=100)
    timeout_s: float = Field(default=_DEFAULT_TIMEOUT_S, gt=0, le=30 * 86400, allow_inf_nan=False)
    deadline: datetime | None = None
    delay_s: float = Field(default=0.0, ge=0, le=366 * 86400, allow_inf_nan=False)
    concurrency_key: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    concurrency_limit: int = Field(default=1, ge=1, le=10_000)
    title: Annotated[str, Field(max_length=500)] | None = None
    description: Annotated[str, Field(max_length=10_000)] | None = None
    then: list[StepForm] = Field(default_factory=list, max_length=MAX_STEPS)

    @field_validator("pool")
    @classmethod
    def _pool_is_a_name(cls, pool: str) -> str:
        return check_name(pool, "pool")

    @field_validator("deadline")
    @classmethod
    def _deadline_has_a_zone(cls, deadline: datetime | None) -> datetime | None:
        if deadline is not None and deadline.tzinfo is None:
            raise ValueError("write the time zone, such as 2030-01-31T12:00:00Z")
        return deadline

    @model_validator(mode="after")
    def _fits_its_action(self) -> "TaskForm":
        if self.action == BuiltinAction.LLM_CHAT and self.provider is None:
            raise ValueError("llm.chat needs `provider`: the name of one from /providers")
        if self.action == BuiltinAction.SSH_EXEC and self.connection is None:
            raise ValueError("ssh.exec needs `connection`: the name of one from /ssh-connections")
        if self.args and self.action in tuple(BuiltinAction):
            raise ValueError(f"{self.action} takes `input`, not `args`")
        if self.provider is not None and self.action != BuiltinAction.LLM_CHAT:
            raise ValueError("`provider` belongs to llm.chat")
        if self.connection is not None and self.action != BuiltinAction.SSH_EXEC:
            raise ValueError("`connection` belongs to ssh.exec")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """Forms that become tasks together, or not at all."""

    forms: tuple[TaskForm, ...]
    created_by: str
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """A task that exists now; `created` is False if an earlier request with the same key made it."""

    task_id: str
    created: bool


class Submitter:
    """Takes submissions from many requests and commits them together."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def submit(self, submission: Submission) -> Future[tuple[Submitted, ...]]:
        """Store the tasks; the future is done when they are durable.

        It fails with NotFound for an unknown provider, connection or worker, TooLarge, IdempotencyMismatch, or
        StorageUnavailable.
        """
        return self._writer.gather(_submit, submission)


def _submit(transaction: Transaction, items: Sequence[Submission]) -> Sequence[tuple[Submitted, ...]]:
    references = _References(transaction)
    rows: list[dict[str, Any]] = []
    keyed: dict[tuple[str, str], dict[str, Any]] = {}
    answers = []
    for submission in items:
        answer = []
        for number, form in enumerate(submission.forms):
            row = _row(transaction, references, form, submission, number)
            known = _known(transaction, keyed, row)
            if known is None:
                rows.append(row)
            answer.append(Submitted(known or row["id"], known is None))
        answers.append(tuple(answer))
    if rows:
        transaction.connection.execute(tasks.insert(), rows)
    for row in rows:
        transaction.events.append(task_event("task.created", row, {"action": row["action"], "lane": row["lane"]}))
        transaction.wake(row["lane"], row["due_at"])
    return answers


class _References:
    """Looks each name up once per transaction."""

    def __init__(self, transaction: Transaction) -> None:
        self._connection = transaction.connection
        self._found: dict[tuple[str, str], tuple[str, str]] = {}

    def resolve(self, table: Table, reference: str, field: str) -> tuple[str, str]:
        """Return (id, name) of the row with this id or name."""
        key = (table.name, reference)
        if key not in self._found:
            query = sa.select(table.c.id, table.c.name).where(
                sa.or_(table.c.id == reference, table.c.name == reference)
            )
            found = self._connection.execute(query.limit(1)).first()
            if found is None:
                raise NotFound(f"there is no {field} {reference[:128]!r}", field=field)
            self._found[key] = (found.id, found.name)
        return self._found[key]


def _row(
    transaction: Transaction, references: _References, form: TaskForm, submission: Submission, number: int
) -> dict[str, Any]:
    provider_id, provider_name = (
        references.resolve(providers, form.provider, "provider") if form.provider else (None, None)
    )
    connection_id = references.resolve(connections, form.connection, "connection")[0] if form.connection else None
    worker_id = references.resolve(workers, form.worker, "worker")[0] if form.worker else None
    # What no worker could read is refused here, where someone can still be told.
    input_blob = pack_input(form.args, form.input)
    key = submission.idempotency_key
    if key is not None and len(submission.forms) > 1:
        key = f"{key}:{number}"
    return {
        "id": ids.new_id(ids.TASK),
        "state": TaskState.SCHEDULED.value,
        "action": form.action,
        "lane": pinned_lane_name(worker_id) if worker_id else _lane(form, provider_name),
        "pool": form.pool,
        "provider_id": provider_id,
        "connection_id": connection_id,
        "pinned_worker_id": worker_id,
        "input_blob": input_blob,
        "then_blob": pack_plan(form.then, lambda worker: references.resolve(workers, worker, "worker")[0]),
        "title": form.title,
        "description": form.description,
        "priority": Priority[form.priority.upper()].value,
        "delivery": (form.delivery or _default_delivery(form.action)).value,
        "max_attempts": form.max_attempts,
        "timeout_s": form.timeout_s,
        "deadline_at": _deadline_at(form, transaction.now),
        "due_at": transaction.now + int(form.delay_s * 1000),
        "eligible_at": transaction.now + int(form.delay_s * 1000),
        "wait_reason": None,
        "concurrency_key": form.concurrency_key,
        "concurrency_limit": form.concurrency_limit,
        "attempt": 0,
        "tries": 0,
        "losses": 0,
        "cancel_requested": False,
        "idempotency_key": key,
        "request_sha256": hashlib.sha256(form.model_dump_json().encode()).digest() if key else None,
        "created_by": submission.created_by,
        "created_at": transaction.now,
    }


def _lane(form: TaskForm, provider_name: str | None) -> str:
    kinds = {BuiltinAction.LLM_CHAT.value: LaneKind.LLM, BuiltinAction.SSH_EXEC.value: LaneKind.SSH}
    kind = kinds.get(form.action, LaneKind.PYTHON)
    return lane_name(form.pool, kind, provider_name)


def _default_delivery(action: str) -> Delivery:
    return Delivery.AT_MOST_ONCE if action == BuiltinAction.SSH_EXEC else Delivery.AT_LEAST_ONCE


def _deadline_at(form: TaskForm, now: int) -> int | None:
    if form.deadline is None:
        return None
    deadline_at = int(form.deadline.timestamp() * 1000)
    if deadline_at <= now:
        raise InvalidInput("the deadline has passed", field="deadline", hint="write a time in the future")
    return deadline_at


def _known(transaction: Transaction, keyed: dict[tuple[str, str], dict[str, Any]], row: dict[str, Any]) -> str | None:
    """Return the id of the task that an earlier request with the same Idempotency-Key made, if any."""
    if row["idempotency_key"] is None:
        return None
    key = (row["created_by"], row["idempotency_key"])
    if key not in keyed:
        found = transaction.connection.execute(
            sa.select(tasks.c.id, tasks.c.request_sha256).where(
                tasks.c.created_by == key[0], tasks.c.idempotency_key == key[1]
            )
        ).first()
        if found is None:
            keyed[key] = row
            return None
        keyed[key] = found._asdict()
    if keyed[key]["request_sha256"] != row["request_sha256"]:
        raise IdempotencyMismatch(hint="use a new Idempotency-Key for another request")
    return str(keyed[key]["id"])
