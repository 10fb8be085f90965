"""Outcomes and kept output: stored in batches, each execution once, and decided about at once."""

import random
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
import structlog
from pydantic import TypeAdapter

from broker.decide import RetryPolicy, TaskFacts, decide
from broker.events import task_event
from broker.store.database import insert_new
from broker.store.tables import executions, outputs, tasks
from broker.store.writer import Transaction, Writer
from broker.transitions import carry_out
from protocols.codec import pack
from protocols.outcome import KeptOutput, Outcome, OutcomeReport
from protocols.states import Delivery, TaskState

_MAX_BLOB = 4 * 1024 * 1024
_OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Outcome)

_log = structlog.get_logger(__name__)

_EXECUTIONS = sa.select(executions).where(executions.c.id.in_(sa.bindparam("ids", expanding=True)))
_TASKS = sa.select(tasks).where(tasks.c.id.in_(sa.bindparam("ids", expanding=True)))
_END = (
    executions.update()
    .where(executions.c.id == sa.bindparam("ended_id"))
    .values(
        ended_at=sa.bindparam("ended_at"),
        late=sa.bindparam("late"),
        outcome_kind=sa.bindparam("outcome_kind"),
        outcome_blob=sa.bindparam("outcome_blob"),
    )
)


@dataclass(frozen=True, slots=True)
class Reported:
    """An outcome report and the worker whose session brought it."""

    worker_id: str
    report: OutcomeReport


@dataclass(frozen=True, slots=True)
class ReportedOutput:
    """A part of an execution's output and the worker whose session brought it."""

    worker_id: str
    output: KeptOutput


class Intake:
    """Applies what workers report."""

    def __init__(self, writer: Writer, policy: RetryPolicy) -> None:
        self._writer = writer
        self._policy = policy

    def outcome(self, reported: Reported) -> Future[None]:
        """Store and apply one outcome; done when it is durable. Repeating it changes nothing."""
        return self._writer.gather(self._apply, reported)

    def keep(self, reported: ReportedOutput) -> Future[None]:
        """Store a part of an execution's output. Repeating it changes nothing."""
        return self._writer.gather(_keep, reported)

    def _apply(self, transaction: Transaction, items: Sequence[Reported]) -> Sequence[None]:
        wanted = [item.report.execution_id for item in items]
        found = transaction.connection.execute(_EXECUTIONS, {"ids": wanted})
        open_executions = {row.id: row._asdict() for row in found if row.ended_at is None}
        read = _TaskReader(transaction, {execution["task_id"] for execution in open_executions.values()})
        ended = []
        for item in items:
            execution = open_executions.pop(item.report.execution_id, None)
            if execution is None:
                continue
            if execution["worker_id"] != item.worker_id:
                _log.warning("outcome_of_another_worker", worker=item.worker_id, execution=execution["id"])
                continue
            ended.append(self._end(transaction, read.take(execution["task_id"]), execution, item.report))
        if ended:
            transaction.connection.execute(_END, ended)
        return [None] * len(items)

    def _end(
        self,
        transaction: Transaction,
        task: Mapping[str, Any],
        execution: Mapping[str, Any],
        report: OutcomeReport,
    ) -> dict[str, Any]:
        current = task["execution_id"] == execution["id"]
        if current:
            self._settle(transaction, task, execution, report.outcome)
        else:
            transaction.events.append(_late_event(task, execution, report.outcome))
        return {
            "ended_id": execution["id"],
            "ended_at": transaction.now,
            "late": not current,
            "outcome_kind": report.outcome.kind.value,
            "outcome_blob": pack(_OUTCOME.dump_python(report.outcome, exclude_none=True), _MAX_BLOB),
        }

    def _settle(
        self,
        transaction: Transaction,
        task: Mapping[str, Any],
        execution: Mapping[str, Any],
        outcome: Outcome,
    ) -> None:
        decision = decide(
            facts(task, execution), outcome, now=transaction.now, policy=self._policy, random=random.random
        )
        if decision.state is None:
            transaction.connection.execute(
                tasks.update().where(tasks.c.id == task["id"]).values(losses=decision.losses)
            )
            transaction.events.append(_late_event(task, execution, outcome))
        elif decision.state is TaskState.DEAD and task["state"] == TaskState.DEAD.value:
            # It is dead already, of losing its worker; now it is known what its last execution did.
            transaction.connection.execute(tasks.update().where(tasks.c.id == task["id"]).values(_account(outcome)))
            transaction.events.append(_late_event(task, execution, outcome))
        else:
            carry_out(transaction, task, decision, _told(outcome), **_account(outcome))


class _TaskReader:
    """Reads the tasks of a batch at once; one that was taken, and so may have changed, is read anew."""

    def __init__(self, transaction: Transaction, task_ids: Collection[str]) -> None:
        self._connection = transaction.connection
        self._rows = self._read(task_ids)

    def take(self, task_id: str) -> dict[str, Any]:
        if task_id not in self._rows:
            self._rows |= self._read([task_id])
        return self._rows.pop(task_id)

    def _read(self, task_ids: Collection[str]) -> dict[str, dict[str, Any]]:
        found = self._connection.execute(_TASKS, {"ids": list(task_ids)})
        return {row.id: row._asdict() for row in found}


def facts(task: Mapping[str, Any], execution: Mapping[str, Any]) -> TaskFacts:
    """Return what a decision about `task` after `execution` depends on (both rows)."""
    return TaskFacts(
        state=TaskState(task["state"]),
        delivery=Delivery(task["delivery"]),
        tries=task["tries"],
        max_attempts=task["max_attempts"],
        losses=task["losses"],
        cancel_requested=task["cancel_requested"],
        eligible_at=task["eligible_at"],
        deadline_at=task["deadline_at"],
        due_at=task["due_at"],
        isolated=execution["isolated"],
        lease_lost=execution["lease_ended_at"] is not None,
    )


def _told(outcome: Outcome) -> dict[str, Any]:
    """Return what the journal tells of an outcome."""
    data: dict[str, Any] = {"outcome": outcome.kind.value, "effect": outcome.effect.value}
    if outcome.failure is not None:
        data["error"] = {"class": outcome.failure.failure_class.value, "code": outcome.failure.code}
    return data


def _account(outcome: Outcome) -> dict[str, Any]:
    """Return the columns that tell how the last execution ended."""
    failure = outcome.failure
    return {
        "result_blob": None if outcome.result is None else pack(outcome.result, _MAX_BLOB),
        "usage_blob": None if outcome.usage is None else pack(asdict(outcome.usage), _MAX_BLOB),
        "error_class": failure.failure_class.value if failure else None,
        "error_code": failure.code if failure else None,
        "error_message": failure.message if failure else None,
    }


def _late_event(task: Mapping[str, Any], execution: Mapping[str, Any], outcome: Outcome) -> dict[str, Any]:
    event = task_event(
        "task.late_outcome",
        task,
        _told(outcome),
        execution_id=execution["id"],
        worker_id=execution["worker_id"],
    )
    return {**event, "attempt": execution["attempt"]}


def _keep(transaction: Transaction, items: Sequence[ReportedOutput]) -> Sequence[None]:
    wanted = [item.output.execution_id for item in items]
    found = transaction.connection.execute(_EXECUTIONS, {"ids": wanted})
    owners = {row.id: (row.worker_id, row.task_id, row.attempt) for row in found}
    rows = [
        {
            "execution_id": output.execution_id,
            "part": output.part,
            "task_id": output.task_id,
            "attempt": output.attempt,
            "last": output.last,
            "total_bytes": output.total_bytes,
            "chunks_blob": pack([[chunk.offset, chunk.stream, chunk.data] for chunk in output.chunks], _MAX_BLOB),
        }
        for item in items
        if owners.get((output := item.output).execution_id) == (item.worker_id, output.task_id, output.attempt)
    ]
    if rows:
        transaction.connection.execute(insert_new(transaction.connection, outputs), rows)
    return [None] * len(items)
