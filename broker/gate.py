"""The gate: answers claims. What it answers `run` to is running, in the database, before the answer leaves."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from broker.access import AccessReader, SealedSecret
from broker.dispatch import Dispatcher
from broker.events import task_event
from broker.store.tables import attempts, executions, sessions, tasks, workers
from broker.store.writer import Transaction, Writer
from broker.suspects import is_suspect, postpone, runs_one
from broker.transitions import die, put_back
from broker.vault import Vault
from protocols.claim import Answer, Claim, Verdict
from protocols.sealing import seal, secret_context
from protocols.states import Approval, CauseOfDeath, TaskState

_CLAIM = (
    tasks.update()
    .where(
        tasks.c.id == sa.bindparam("claimed_id"),
        tasks.c.attempt == sa.bindparam("claimed_attempt"),
        tasks.c.state == TaskState.QUEUED.value,
        tasks.c.cancel_requested.is_(False),
    )
    .values(
        state=TaskState.RUNNING.value,
        execution_id=sa.bindparam("claimed_execution"),
        worker_id=sa.bindparam("claimed_worker"),
        started_at=sa.bindparam("claimed_at"),
        wait_reason=None,
    )
)
_TASKS = (
    sa.select(tasks, attempts.c.envelope_sha256)
    .join(attempts, sa.and_(attempts.c.task_id == tasks.c.id, attempts.c.attempt == tasks.c.attempt))
    .where(tasks.c.id.in_(sa.bindparam("ids", expanding=True)))
)
_OPEN_EXECUTION = executions.insert()
_WORKER_IF_LIVE = (
    sa.select(workers.c.pools, workers.c.drained_at)
    .select_from(sessions.join(workers, workers.c.id == sessions.c.worker_id))
    .where(
        sessions.c.worker_id == sa.bindparam("worker_id"),
        sessions.c.epoch == sa.bindparam("epoch"),
        sessions.c.lease_ended_at.is_(None),
        workers.c.approval == Approval.APPROVED.value,
    )
)
_EXECUTIONS = sa.select(executions).where(executions.c.id.in_(sa.bindparam("ids", expanding=True)))


@dataclass(frozen=True, slots=True)
class ClaimBatch:
    """The claims of one frame, from one session."""

    worker_id: str
    epoch: int
    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class Granted:
    """An answer whose secrets are still those of the database."""

    answer: Answer
    secrets: Mapping[str, SealedSecret]


class Gate:
    """Answers batches of claims; the same execution id gets the same answer again."""

    def __init__(self, writer: Writer, dispatcher: Dispatcher, vault: Vault) -> None:
        self._writer = writer
        self._dispatcher = dispatcher
        self._vault = vault

    def claim(self, batch: ClaimBatch) -> Future[tuple[Granted, ...] | None]:
        """Decide about the claims; None if the session's lease has ended, so that nothing may start."""
        return self._writer.gather(self._decide, batch)

    def seal(self, granted: Granted, *, worker_id: str, sealing_key: bytes) -> Answer:
        """Return the answer with its secrets sealed to the worker and the execution."""
        if not granted.secrets:
            return granted.answer
        sealed = {
            name: seal(
                self._vault.decrypt(secret.id, secret.version, secret.ciphertext, secret.wrapped_key),
                recipient=sealing_key,
                context=secret_context(worker_id=worker_id, execution_id=granted.answer.execution_id, name=name),
            )
            for name, secret in granted.secrets.items()
        }
        return replace(granted.answer, secrets=sealed)

    def _decide(self, transaction: Transaction, batches: Sequence[ClaimBatch]) -> Sequence[tuple[Granted, ...] | None]:
        claims = [claim for batch in batches for claim in batch.claims]
        known = _by_id(transaction, _EXECUTIONS, [claim.execution_id for claim in claims])
        found = _by_id(transaction, _TASKS, [claim.task_id for claim in claims])
        desk = _Desk(transaction, self._dispatcher, known, found)
        answers = [
            None if (claimant := _claimant(transaction, batch)) is None else desk.answer(batch, claimant)
            for batch in batches
        ]
        desk.finish()
        return answers


def _by_id(transaction: Transaction, query: sa.Select[Any], wanted: list[str]) -> dict[str, Mapping[str, Any]]:
    return {row.id: row._asdict() for row in transaction.connection.execute(query, {"ids": wanted})}


@dataclass(frozen=True, slots=True)
class _Claimant:
    """A worker that makes claims."""

    pools: frozenset[str]
    drained: bool


def _claimant(transaction: Transaction, batch: ClaimBatch) -> _Claimant | None:
    """Return who claims; None unless the session holds its lease and the worker is approved."""
    session = {"worker_id": batch.worker_id, "epoch": batch.epoch}
    found = transaction.connection.execute(_WORKER_IF_LIVE, session).first()
    return None if found is None else _Claimant(frozenset(found.pools), found.drained_at is not None)


class _Desk:
    """Works through the claims of one transaction."""

    def __init__(
        self,
        transaction: Transaction,
        dispatcher: Dispatcher,
        known: dict[str, Mapping[str, Any]],
        found: dict[str, Mapping[str, Any]],
    ) -> None:
        self._transaction = transaction
        self._dispatcher = dispatcher
        self._known = known
        self._tasks = found
        self._started: list[dict[str, Any]] = []
        self._access = AccessReader(transaction)

    def answer(self, batch: ClaimBatch, claimant: _Claimant) -> tuple[Granted, ...]:
        return tuple(self._answer(batch, claimant, claim) for claim in batch.claims)

    def finish(self) -> None:
        """Write the executions that have started."""
        if self._started:
            self._transaction.connection.execute(_OPEN_EXECUTION, self._started)

    def _answer(self, batch: ClaimBatch, claimant: _Claimant, claim: Claim) -> Granted:
        execution = self._known.get(claim.execution_id)
        task = self._tasks.get(claim.task_id)
        if execution is not None:
            return self._repeat(batch, claim, execution, task)
        if task is None:
            return _drop(claim, "no such task, or an attempt that was never published")
        if not _may_run(batch.worker_id, claimant.pools, task):
            return _drop(claim, "its lane is not this worker's")
        if claimant.drained:
            self._put_back(task, claim)
            return _drop(claim, "the worker is drained")
        if task["deadline_at"] is not None and task["deadline_at"] <= self._transaction.now:
            self._expire(task, claim)
            return _drop(claim, "its deadline has passed")
        if self._meets_another_suspect(batch, claim, task):
            postpone(self._transaction, task)
            self._tasks[claim.task_id] = {**task, "state": TaskState.SCHEDULED.value}
            return _drop(claim, "the worker runs another suspect")
        if not self._compare_and_set(batch, claim):
            return _drop(claim, _why_not(task, claim))
        return self._start(batch, claim, task)

    def _meets_another_suspect(self, batch: ClaimBatch, claim: Claim, task: Mapping[str, Any]) -> bool:
        if not _is_claimable(task, claim) or not is_suspect(task):
            return False
        starting = any(started["isolated"] and started["worker_id"] == batch.worker_id for started in self._started)
        return starting or runs_one(self._transaction, batch.worker_id)

    def _compare_and_set(self, batch: ClaimBatch, claim: Claim) -> bool:
        changed = self._transaction.connection.execute(
            _CLAIM,
            {
                "claimed_id": claim.task_id,
                "claimed_attempt": claim.attempt,
                "claimed_execution": claim.execution_id,
                "claimed_worker": batch.worker_id,
                "claimed_at": self._transaction.now,
            },
        )
        return changed.rowcount == 1

    def _start(self, batch: ClaimBatch, claim: Claim, task: Mapping[str, Any]) -> Granted:
        isolated = is_suspect(task)
        execution = {
            "id": claim.execution_id,
            "task_id": claim.task_id,
            "attempt": claim.attempt,
            "worker_id": batch.worker_id,
            "epoch": batch.epoch,
            "isolated": isolated,
            "claimed_at": self._transaction.now,
            "late": False,
        }
        self._started.append(execution)
        # A claim and its repetition after a break may meet in one transaction.
        self._known[claim.execution_id] = {**execution, "ended_at": None, "lease_ended_at": None}
        self._tasks[claim.task_id] = {
            **task,
            "state": TaskState.RUNNING.value,
            "execution_id": claim.execution_id,
        }
        self._transaction.events.append(
            task_event(
                "task.started",
                task,
                {"isolated": isolated},
                execution_id=claim.execution_id,
                worker_id=batch.worker_id,
            )
        )
        self._transaction.wake(task["lane"])
        lane = task["lane"]
        self._transaction.after_commit(lambda: self._dispatcher.starts.count(lane, 1))
        return self._grant(claim, task, isolated=isolated)

    def _repeat(
        self,
        batch: ClaimBatch,
        claim: Claim,
        execution: Mapping[str, Any],
        task: Mapping[str, Any] | None,
    ) -> Granted:
        current = (
            task is not None
            and task["execution_id"] == claim.execution_id
            and task["state"] == TaskState.RUNNING.value
            and execution["worker_id"] == batch.worker_id
            and execution["ended_at"] is None
            and execution["lease_ended_at"] is None
        )
        if task is None or not current:
            return _drop(claim, "this execution's lease has ended")
        return self._grant(claim, task, isolated=execution["isolated"])

    def _grant(self, claim: Claim, task: Mapping[str, Any], *, isolated: bool) -> Granted:
        timeout_s = task["timeout_s"]
        if task["deadline_at"] is not None:
            timeout_s = min(timeout_s, (task["deadline_at"] - self._transaction.now) / 1000)
        provider, connection, needed = self._access.of(task)
        answer = Answer(
            task_id=claim.task_id,
            execution_id=claim.execution_id,
            verdict=Verdict.RUN_ISOLATED if isolated else Verdict.RUN,
            envelope_sha256=task["envelope_sha256"],
            timeout_s=timeout_s,
            provider=provider,
            connection=connection,
        )
        return Granted(answer, needed)

    def _put_back(self, task: Mapping[str, Any], claim: Claim) -> None:
        if _is_claimable(task, claim):
            put_back(self._transaction, task, "the worker that took it is drained")
            self._tasks[claim.task_id] = {**task, "state": TaskState.SCHEDULED.value}

    def _expire(self, task: Mapping[str, Any], claim: Claim) -> None:
        if _is_claimable(task, claim):
            die(
                self._transaction,
                task,
                CauseOfDeath.DEADLINE,
                error_code="deadline",
                error_message="its deadline passed before a worker could start it",
            )


def _may_run(worker_id: str, pools: frozenset[str], task: Mapping[str, Any]) -> bool:
    """Return whether the task's lane is the worker's; a worker can claim any task whose id it has come to know."""
    pinned = task["pinned_worker_id"]
    return bool(pinned == worker_id if pinned is not None else task["pool"] in pools)


def _is_claimable(task: Mapping[str, Any], claim: Claim) -> bool:
    return bool(task["state"] == TaskState.QUEUED.value and task["attempt"] == claim.attempt)


def _why_not(task: Mapping[str, Any], claim: Claim) -> str:
    if task["cancel_requested"] or task["state"] == TaskState.CANCELLED.value:
        return "it was cancelled"
    if task["attempt"] != claim.attempt:
        return f"attempt {claim.attempt} was replaced by attempt {task['attempt']}"
    return f"it is {task['state']}"


def _drop(claim: Claim, reason: str) -> Granted:
    return Granted(
        Answer(task_id=claim.task_id, execution_id=claim.execution_id, verdict=Verdict.DROP, reason=reason),
        {},
    )
